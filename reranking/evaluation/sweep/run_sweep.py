"""A stored run swept: read once, every setting measured, each family's choice told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pyarrow as pa

from configs.evaluation import ComparisonSettings
from configs.part import LEGS, QueryType
from reranking.errors import ConfigError
from reranking.evaluation.array_measures import array_measure
from reranking.evaluation.measures import DEFAULT_JUDGED, parse_primary
from reranking.evaluation.sides import Side, deciding_query_type, judgments_of
from reranking.evaluation.sweep.pool import Pool, pool_of
from reranking.evaluation.sweep.select import (
    Choice,
    Parts,
    Point,
    Trial,
    choose,
    folds,
    measured,
    point,
    set_aside,
)
from reranking.evaluation.sweep.settings import Option, Setting, families, lancedb, setting_of
from reranking.fingerprints import digest
from reranking.judgments.lists import grades
from reranking.runs.rates import scoring_rate
from reranking.runs.run import Run

_SHARE: Final = 2**32


@dataclass(frozen=True)
class Sweep:
    """A swept run: today's setting, LanceDB's own, and each family's choice."""

    run_id: str
    judgment_list: str
    measure: str
    query_type: str
    queries: int
    how: str
    pairs_per_second: float | None
    today: Point
    lancedb: Point | None
    choices: tuple[Choice, ...]

    @cached_property
    def best(self) -> Choice | None:
        """The improvement that gains most on held-out queries; None if there is none."""
        good = [c for c in self.choices if c.verdict == "improved"]
        return max(good, key=lambda c: c.held.difference or 0.0, default=None)

    @property
    def free(self) -> Choice | None:
        """The improvement that gains most without any pair scored; None if there is none."""
        good = [c for c in self.choices if c.verdict == "improved" and not c.points[c.chosen].pairs]
        return max(good, key=lambda c: c.held.difference or 0.0, default=None)

    @property
    def lines(self) -> str:
        """The config lines of the best choice; a comment that says so if there is none."""
        if self.best is None:
            return "# no setting holds on held-out queries: the config stays as it is\n"
        return self.best.points[self.best.chosen].option.setting.lines(self.today.option.setting)

    @property
    def sentence(self) -> str:
        """What the sweep found, in one sentence."""
        if self.best is None:
            return "No setting is an improvement on queries that it was not chosen on."
        chosen = self.best.points[self.best.chosen].option.name
        sentence = f"Best on held-out queries: {self.best.family}, {chosen} ({self.best.reason})."
        if self.today.pairs and self.free not in (None, self.best):
            assert self.free is not None
            name = self.free.points[self.free.chosen].option.name
            sentence += f" Without a reranker: {self.free.family}, {name} ({self.free.reason})."
        return sentence

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-like values."""
        best = self.best
        return {
            "run_id": self.run_id,
            "judgment_list": self.judgment_list,
            "measure": self.measure,
            "query_type": self.query_type,
            "queries": self.queries,
            "how": self.how,
            "pairs_per_second": self.pairs_per_second,
            "sentence": self.sentence,
            "best": None if best is None else best.family,
            "write": self.lines,
            "today": _plain(self.today, self.today),
            "lancedb": None if self.lancedb is None else _plain(self.lancedb, self.today),
            "families": [_family(c, self.today) for c in self.choices],
        }


def _family(choice: Choice, today: Point) -> dict[str, Any]:
    return {
        "family": choice.family,
        "chosen": choice.points[choice.chosen].option.name,
        "write": choice.points[choice.chosen].option.setting.config(today.option.setting),
        "picked": choice.picked,
        "parts": choice.parts,
        "seen": asdict(choice.seen),
        "held": asdict(choice.held),
        "p_corrected": choice.p_corrected,
        "verdict": choice.verdict,
        "reason": choice.reason,
        "only_where_chosen": choice.only_where_chosen,
        "sentence": choice.sentence,
        "knee": None if choice.knee is None else choice.points[choice.knee].option.name,
        "points": [_plain(p, today) for p in choice.points],
    }


def _plain(point: Point, today: Point) -> dict[str, Any]:
    option = point.option
    return {
        "name": option.name,
        "setting": option.setting.name,
        "config": option.setting.config(today.option.setting),
        "series": option.series,
        "x": option.x,
        "mean": point.mean,
        "difference": point.difference,
        "low": point.low,
        "high": point.high,
        "pairs": point.pairs,
        "seconds": point.seconds,
    }


def sweep_run(
    run: Run,
    rules: ComparisonSettings,
    *,
    judgment_list: str | None = None,
    tune_on: str | None = None,
    ignore_identical_ids: bool = False,
) -> Sweep:
    """Return what other settings would make of a run's stored candidates and scores.

    `tune_on` is a tag of the queries or a share of them to choose on; None: nested
    cross-validation. Nothing is searched and no model is loaded. Raises ConfigError without
    judgments, for a given ranking, which has no legs, and for a measure that cannot be computed for
    many rankings at once.
    """
    if run.config is not None and run.config.candidates is not None:
        raise ConfigError(
            f"run {run.run_id[:8]} reranks a given ranking: there are no legs whose depth, fusion "
            "or blend could be another. Sweep a run that searched"
        )
    side = Side(run, "reranked", run.run_id[:8])
    chosen = judgments_of([side], judgment_list)
    if chosen is None:
        raise ConfigError(
            f"no judgment list is stored for query set {run.queries.name!r}: a sweep measures "
            "settings, so it needs one; name a `judgments.source`"
        )
    judged = grades(run.database, chosen, run.query_rows, ignore_identical_ids).table
    pool = pool_of(run, judged, ignore_identical_ids=ignore_identical_ids)
    query_type: Any = deciding_query_type(rules.query_type, [side])
    rate = None if run.reranker is None else scoring_rate(run.database, run.reranker)
    return sweep(
        pool,
        judged,
        rules,
        setting_of(run, query_type),
        run.search.query_types,
        metric=run.search.metric,
        rate=rate,
        parts=parts_of(pool, run.query_rows, tune_on),
        run_id=run.run_id,
        judgment_list=chosen,
    )


def sweep(
    pool: Pool,
    judged: pa.Table,
    rules: ComparisonSettings,
    today: Setting,
    query_types: tuple[QueryType, ...],
    *,
    metric: str | None,
    rate: float | None,
    parts: Parts,
    run_id: str = "",
    judgment_list: str = "",
) -> Sweep:
    """Sweep a pool: pure. `rate` is pairs per second, None if no run tells."""
    primary = parse_primary(rules.primary)
    measure, depth = array_measure(primary), primary.params.get("cutoff")
    tried = families(pool, today, query_types, metric)
    plain = lancedb(today)
    wanted = dict.fromkeys([today, plain, *(o.setting for f in tried for o in f.options)])
    with ThreadPoolExecutor(os.cpu_count()) as threads:  # sorting lets go of the interpreter
        results = threads.map(lambda setting: measured(pool, setting, measure, depth), wanted)
    values = dict(zip(wanted, results, strict=True))

    def cost(setting: Setting) -> tuple[int, float | None]:
        pairs = pool.pairs(setting.query_type, setting.depth) if setting.reranked else 0
        return pairs, pairs / rate if rate and setting.reranked else (None if pairs else 0.0)

    trials = [
        Trial(family, np.stack([values[o.setting] for o in family.options])) for family in tried
    ]
    choices = choose(pool, trials, parts, rules, judged, depth or DEFAULT_JUDGED, cost)
    both = {"vector", "fts"} <= {leg for t in query_types for leg in LEGS[t]}
    return Sweep(
        run_id=run_id,
        judgment_list=judgment_list,
        measure=str(primary),
        query_type=today.query_type,
        queries=len(pool.query_ids),
        how=parts.how,
        pairs_per_second=rate,
        today=point(Option(today, "today's"), values[today], values[today], cost(today)),
        lancedb=point(
            Option(plain, "LanceDB's hybrid search"), values[plain], values[today], (0, 0.0)
        )
        if both
        else None,
        choices=tuple(choices),
    )


def parts_of(pool: Pool, queries: pa.Table, tune_on: str | None) -> Parts:
    """Return which queries choose and which tell; `tune_on` is a tag or a share such as 0.5.

    Raises ConfigError for a share outside of 0 to 1, and if all or no judged queries would choose.
    """
    if tune_on is None:
        return folds(pool.query_ids)
    try:
        share = float(tune_on)
    except ValueError:
        return _by_tag(pool, queries, tune_on)
    numbers = np.array(
        [int.from_bytes(digest(q.encode())[:4], "big") / _SHARE for q in pool.query_ids]
    )
    return _checked(numbers < share, f"that a share of {share:g} drew", tune_on)


def _by_tag(pool: Pool, queries: pa.Table, tag: str) -> Parts:
    columns: Mapping[str, list[Any]] = queries.select(["query_id", "tags"]).to_pydict()
    tagged = {
        q
        for q, tags in zip(columns["query_id"], columns["tags"], strict=True)
        if tag in (tags or ())
    }
    return _checked(np.array([q in tagged for q in pool.query_ids], bool), f"tagged {tag!r}", tag)


def _checked(chooses: Any, what: str, given: str) -> Parts:
    if not 0 < chooses.sum() < len(chooses):
        raise ConfigError(
            f"--tune-on {given}: {chooses.sum()} of {len(chooses)} judged queries would choose the "
            "settings; expected some, and others to tell them on: a tag that some queries have, or "
            "a share such as 0.5"
        )
    return set_aside(chooses, what)
