"""Settings that stored scores can be ranked by, and the families of them that a sweep tries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import yaml

from configs.blending import Blend, Fusion
from configs.part import LEGS, QueryType
from reranking.evaluation.array_measures import NOTHING, Grades
from reranking.evaluation.sweep.pool import Pool
from reranking.runs.fusion import Floats, blended, fused
from reranking.runs.ranking import cut_of
from reranking.runs.run import Run

DEPTHS: Final = (5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
CUTS: Final = (1, 2, 3, 5, 10, 20, 50, 100)
_K: Final = (5, 10, 20, 40, 100)
_SHARES: Final = (0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9)
_SCALED_SHARES: Final = (0.1, 0.3, 0.5, 0.7, 0.9)
_STEPS: Final = (1, 2, 5)
_RANK_WEIGHTS: Final = ((0.5, 0.0), (1.0, 0.0), (0.5, 0.5), (1.0, 1.0), (2.0, 1.0))


@dataclass(frozen=True)
class Setting:
    """One way to rank a run's stored candidates; `depth` is a leg's, `reranked` by the logit."""

    query_type: QueryType
    depth: int
    reranked: bool
    fusion: Fusion | None = None
    blend: Blend | None = None
    top_k: int | None = None

    @property
    def cut(self) -> int:
        """How many ranks are kept."""
        return cut_of(self.depth, self.top_k if self.reranked else None)

    @property
    def name(self) -> str:
        """The setting in words."""
        words = [self.query_type, f"depth {self.depth}"]
        if self.reranked:
            words.append("reranked")
            words += [f"blend {_said(self.blend)}"] if self.blend else []
            words += [f"top_k {self.top_k}"] if self.top_k else []
        else:
            words.append("first stage")
            words += [f"fusion {_said(self.fusion)}"] if self.fusion else []
        return ", ".join(words)

    def config(self, today: Setting) -> dict[str, Any]:
        """Return the config keys that make it the pipeline's where it differs from `today`."""
        search: dict[str, Any] = {}
        rerank: dict[str, Any] = {}
        if self.query_type != today.query_type:
            search["query_types"] = [self.query_type]
        if self.depth != today.depth:
            search["limit"] = self.depth
        if self.fusion != today.fusion:
            search["fusion"] = self.fusion and (self.fusion.named or None)
        if not self.reranked and today.reranked:
            return {"search": search, "rerank": None} if search else {"rerank": None}
        if self.blend != today.blend:
            rerank["blend"] = self.blend and self.blend.named
        if self.top_k != today.top_k:
            rerank["top_k"] = self.top_k
        parts = {"search": search, "rerank": rerank}
        return {name: keys for name, keys in parts.items() if keys}

    def lines(self, today: Setting) -> str:
        """Return the same as YAML."""
        return str(yaml.safe_dump(self.config(today), sort_keys=False, default_flow_style=False))


def _said(joined: Fusion | Blend) -> str:
    return (
        " ".join(
            f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in joined.named.items()
        )
        or "rrf"
    )


@dataclass(frozen=True)
class Option:
    """A setting of a family; `x` is what is varied along the curve `series`, None without one."""

    setting: Setting
    name: str
    series: str = ""
    x: float | None = None


@dataclass(frozen=True)
class Family:
    """Settings that differ in one respect, today's first."""

    name: str
    options: tuple[Option, ...]


def setting_of(run: Run, query_type: QueryType) -> Setting:
    """Return what the run itself does for a query type."""
    return Setting(
        query_type=query_type,
        depth=run.search.limit,
        reranked=run.reranker is not None,
        fusion=run.search.fusion,
        blend=run.blend,
        top_k=run.top_k,
    )


def lancedb(today: Setting) -> Setting:
    """Return what LanceDB gives without a reranker of one's own: RRF of both legs."""
    return Setting("hybrid", today.depth, reranked=False)


def families(
    pool: Pool, today: Setting, query_types: Sequence[str], metric: str | None
) -> list[Family]:
    """Return the families that the run's legs and scores allow, each with today's setting first."""
    legs = {leg for t in query_types for leg in LEGS[t]}
    own = {t: of_type for t, of_type in LEGS.items() if legs >= set(of_type)}
    made = [
        ("depth", _depths(today)),
        ("legs", _legs(today, own)),
        ("fusion", _fusions(today, metric) if "hybrid" in own else ()),
        ("blend", _blends(pool, today, metric) if today.reranked else ()),
        ("cut", _cuts(today) if today.reranked else ()),
    ]
    first = Option(today, "today's")
    found = []
    for name, drawn in made:
        options = tuple(drawn)
        others = [o for o in options if o.setting != today]
        kept = next((o for o in options if o.setting == today), first)
        if others:
            found.append(
                Family(
                    name,
                    (
                        replace(
                            kept,
                            name=f"{kept.name} (today's)".replace("today's (today's)", "today's"),
                        ),
                        *others,
                    ),
                )
            )
    return found


def _depths(today: Setting) -> Iterator[Option]:
    for depth in (*(d for d in DEPTHS if d < today.depth), today.depth):
        yield Option(replace(today, depth=depth), f"depth {depth}", "depth", depth)


def _legs(today: Setting, types: dict[Any, Any]) -> Iterator[Option]:
    for query_type, reranked in product(types, (True, False) if today.reranked else (False,)):
        blend = today.blend if reranked else None
        setting = replace(today, query_type=query_type, reranked=reranked, blend=blend)
        if query_type != "hybrid" or reranked:
            setting = replace(setting, fusion=today.fusion if query_type == "hybrid" else None)
        if not reranked:
            setting = replace(setting, top_k=None)
        yield Option(setting, f"{query_type} {'reranked' if reranked else 'not reranked'}")


def _fusions(today: Setting, metric: str | None) -> Iterator[Option]:
    base = lancedb(today)

    def option(series: str, x: float, fusion: Fusion | None) -> Option:
        said = f"{series} {x:g}"
        return Option(replace(base, fusion=fusion), said, series, x)

    yield option("rrf, k", 60, None)
    for k in _K:
        yield option("rrf, k", k, Fusion(k=k))
    for share in _SHARES:
        yield option("rrf, vector share", share, Fusion(vector=share))
    for share in _SCALED_SHARES:
        yield option("convex, vector share", share, Fusion(method="convex", vector=share))
    if metric == "cosine":
        for share in _SCALED_SHARES:
            how = Fusion(method="convex", scale="theoretical", vector=share)
            yield option("convex theoretical, vector share", share, how)
    for share in _SCALED_SHARES:
        how = Fusion(method="distribution", vector=share)
        yield option("distribution, vector share", share, how)


def _blends(pool: Pool, today: Setting, metric: str | None) -> Iterator[Option]:
    legs = LEGS[today.query_type]

    def option(series: str, x: float, said: str, **values: Any) -> Option:
        return Option(replace(today, blend=Blend(**values)), f"{series}{said} {x:g}", series, x)

    near, words = ("vector" in legs, "fts" in legs)
    for scale in ("raw", "min-max"):
        if scale == "raw" and metric != "cosine":
            continue
        probe = Blend(vector=1, fts=1, scale=scale)
        terms = pool.terms(today.query_type, today.depth, probe)
        vectors = _weights(pool, terms[0]) if near else []
        texts = _weights(pool, terms[1])[1:-1] if words else []
        what = "cosine" if scale == "raw" else "vector 0-1"
        for fts in (0.0, *texts) if near else ():
            beside = f" + {fts:g} x {'BM25' if scale == 'raw' else 'fts 0-1'}" if fts else ""
            for weight in vectors:
                series = f"logit{beside} + w x {what}"
                yield option(series, weight, ":", vector=weight, fts=fts, scale=scale)
        for fts in _weights(pool, terms[1]) if words else ():
            series = f"logit + w x {'BM25' if scale == 'raw' else 'fts 0-1'}"
            yield option(series, fts, ":", fts=fts, scale=scale)
    for vector, fts in _RANK_WEIGHTS:
        v, f = (vector if near else 0.0), (fts if words else 0.0)
        if v or f:
            series = f"ranks, vector {v:g} fts {f:g}, k"
            for k in (10, 60):
                yield option(series, k, "", method="ranks", vector=v, fts=f, k=k)


def _weights(pool: Pool, term: Floats) -> list[float]:
    """Round weights around the one that makes the term vary as much as the logits do.

    From a tenth of it to five times it, so that a grid fits any reranker's scale of logits. No
    judgment is looked at.
    """
    assert pool.logits is not None
    known = np.isfinite(pool.logits)
    if not known.any():
        return []
    spreads = []
    for values in (pool.logits, np.where(known, term, np.nan)):
        rows = values[known.sum(axis=1) > 1]
        spreads.append(float(np.nanmedian(np.nanstd(rows, axis=1))) if len(rows) else 0.0)
    if not all(spreads):
        return []
    even = spreads[0] / spreads[1]
    steps = [s * 10.0**p for p in range(-6, 7) for s in _STEPS]
    return [float(f"{s:.6g}") for s in steps if 0.1 * even <= s <= 5 * even]


def _cuts(today: Setting) -> Iterator[Option]:
    for cut in CUTS:
        if cut < today.cut:
            yield Option(replace(today, top_k=cut), f"top_k {cut}", "top_k", cut)


def scores_of(pool: Pool, setting: Setting) -> Floats:
    """Return the scores that a setting ranks by, NaN where its legs did not find the document."""
    legs = pool.view(setting.query_type, setting.depth)
    if not setting.reranked:
        return fused(legs, setting.fusion)
    assert pool.logits is not None
    if setting.blend is None:
        scores = np.where(legs.present, pool.logits, np.nan)
    else:
        terms = pool.terms(setting.query_type, setting.depth, setting.blend)
        scores = blended(pool.logits, legs, setting.blend, terms)
    by_ranks = setting.blend is not None and setting.blend.method == "ranks"
    return scores if pool.lift is None or by_ranks else scores + pool.lift


def ranked(pool: Pool, setting: Setting, depth: int | None = None) -> Grades:
    """Return the columns of each query's documents in rank order, NOTHING behind the end.

    `depth` is how many ranks are wanted, None all.
    """
    scores = scores_of(pool, setting)
    order = np.argsort(-scores, axis=1, kind="stable")  # NaN last, equal ones by id
    return cut_off(order[:, :depth], scores, setting)


def cut_off(order: npt.NDArray[np.int64], scores: Floats, setting: Setting) -> Grades:
    """Return the columns in rank order, NOTHING where a ranking has ended."""
    there = ~np.isnan(np.take_along_axis(scores, order, axis=1))
    there &= np.arange(order.shape[1]) < setting.cut
    return np.where(there, order, NOTHING)


def grades_by_rank(pool: Pool, places: Grades) -> Grades:
    """Return the grades of documents in rank order, as array measures read them."""
    grades = np.take_along_axis(pool.grades, np.maximum(places, 0), axis=1)
    return np.where(places == NOTHING, NOTHING, grades)
