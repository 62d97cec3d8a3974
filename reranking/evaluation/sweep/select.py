"""Which setting of a family would be chosen, and what it is worth on queries it was not chosen on.

Nested cross-validation: for each part of the queries the setting is chosen on the other parts and
told on this one, so that every query is told by a choice that did not see it. Or the choice is made
once, on queries that are set aside for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from configs.evaluation import ComparisonSettings
from reranking.evaluation.array_measures import NOTHING, ArrayMeasure, Grades
from reranking.evaluation.statistics import (
    Floats,
    Paired,
    compare_paired,
    corrected,
)
from reranking.evaluation.sweep.pool import Pool
from reranking.evaluation.sweep.settings import Family, Option, Setting, grades_by_rank, ranked
from reranking.evaluation.verdict import Changed, Verdict, changed_documents, decide
from reranking.fingerprints import digest

FOLDS: Final = 5
_BAND: Final = 1.96  # standard errors: a point's band is a normal 95 % interval
_HINT: Final = 999  # resamples of the difference where the choice was made: it decides nothing

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Parts:
    """How queries are set apart: (rows that choose, rows that tell), each query told at most once.

    `how` says so in words.
    """

    pairs: tuple[tuple[Rows, Rows], ...]
    how: str

    @property
    def told(self) -> Rows:
        """The rows that some choice is told on."""
        return np.sort(np.concatenate([held for _, held in self.pairs]))


def folds(query_ids: Sequence[str], count: int = FOLDS) -> Parts:
    """Return the queries in `count` parts by their ids: a query is always in the same one."""
    numbers = np.array([int.from_bytes(digest(q.encode())[:8], "big") for q in query_ids], object)
    order = np.argsort(numbers, kind="stable")
    part = np.empty(len(order), np.int64)
    part[order] = np.arange(len(order)) % count
    rows = np.arange(len(order))
    pairs = tuple((rows[part != f], rows[part == f]) for f in range(count) if (part == f).any())
    return Parts(pairs, f"nested cross-validation over {len(pairs)} parts of the queries")


def set_aside(chooses: npt.NDArray[np.bool_], what: str) -> Parts:
    """Return one part: chosen on the queries marked so, told on the others."""
    pair = (np.flatnonzero(chooses), np.flatnonzero(~chooses))
    said = f"chosen on the {len(pair[0])} queries {what}, told on the other {len(pair[1])}"
    return Parts((pair,), said)


@dataclass(frozen=True)
class Point:
    """One setting: its mean over all queries, and its difference to today's with a band.

    `pairs` are those that a run needs scored, `seconds` at this machine's speed (None: unknown).
    """

    option: Option
    mean: float
    difference: float
    low: float
    high: float
    pairs: int
    seconds: float | None


@dataclass(frozen=True)
class Choice:
    """What a family offers. `chosen` is the point chosen on all queries that choose.

    `seen` is its difference to today's on those queries, which flatters it; `held` the difference
    on queries that had no part in the choice, which decides. `picked` says how many of the parts
    chose the same. `knee` is the cheapest depth within the margin of the best one.
    """

    family: str
    points: tuple[Point, ...]
    chosen: int
    picked: int
    parts: int
    seen: Paired
    held: Paired
    p_corrected: float | None
    verdict: Verdict
    reason: str
    knee: int | None

    @property
    def only_where_chosen(self) -> bool:
        """Whether, by the intervals, it wins on the queries that chose it and on no others."""
        won, holds = (p.low is not None and p.low > 0 for p in (self.seen, self.held))
        return won and not holds and self.chosen != 0

    @property
    def sentence(self) -> str:
        """What to make of the family, in one sentence."""
        name = self.points[self.chosen].option.name
        if self.chosen == 0:
            return f"{self.family}: today's setting is the best of {len(self.points)}"
        sentence = f"{self.family}: {name}; on held-out queries {self.verdict}, {self.reason}"
        if self.only_where_chosen:
            sentence += ". It wins only on the queries that it was chosen on"
        return sentence


@dataclass(frozen=True)
class Trial:
    """All settings of a family ranked and measured: values are (settings, queries)."""

    family: Family
    values: Floats


def measured(pool: Pool, setting: Setting, measure: ArrayMeasure, depth: int | None) -> Floats:
    """Return the measure of each query under a setting."""
    return measure(grades_by_rank(pool, ranked(pool, setting, depth)), pool.judged)


def choose(
    pool: Pool,
    trials: Sequence[Trial],
    parts: Parts,
    rules: ComparisonSettings,
    judgments: pa.Table,
    depth: int,
    cost: Callable[[Setting], tuple[int, float | None]],
) -> list[Choice]:
    """Return each family's choice; p-values are corrected over the families (Holm)."""
    drafts = [_draft(trial, parts, rules, cost) for trial in trials]
    tested = [i for i, draft in enumerate(drafts) if draft.held.p is not None]
    adjusted = corrected([drafts[i].held.p or 0.0 for i in tested], "holm")
    for i, p in zip(tested, adjusted, strict=True):
        drafts[i] = replace(drafts[i], p_corrected=p)
    decided = _Deciding(pool, parts, rules, judgments, depth)
    return [decided.with_verdict(d, t) for d, t in zip(drafts, trials, strict=True)]


def _draft(
    trial: Trial,
    parts: Parts,
    rules: ComparisonSettings,
    cost: Callable[[Setting], tuple[int, float | None]],
) -> Choice:
    values, options = trial.values, trial.family.options
    picks = _picks(values, parts)
    chooses = np.unique(np.concatenate([rows for rows, _ in parts.pairs]))
    best = best_of(values[:, chooses])
    points = tuple(
        point(o, v, values[0], cost(o.setting)) for o, v in zip(options, values, strict=True)
    )
    return Choice(
        family=trial.family.name,
        points=points,
        chosen=best,
        picked=picks.count(best),
        parts=len(picks),
        seen=compare_paired(values[0, chooses], values[best, chooses], resamples=_HINT),
        held=compare_paired(values[0, parts.told], _held(values, parts, picks)),
        p_corrected=None,
        verdict="cannot tell",
        reason="",
        knee=_knee(points, rules.margin) if trial.family.name == "depth" else None,
    )


def best_of(values: Floats) -> int:
    """Return the row of the highest mean; of equal ones the first, which today's is."""
    means = values.mean(axis=1) if values.shape[1] else np.zeros(len(values))
    return int((means > means.max() - 1e-12).argmax())


def _picks(values: Floats, parts: Parts) -> list[int]:
    return [best_of(values[:, chooses]) for chooses, _ in parts.pairs]


def _held(values: Floats, parts: Parts, picks: Sequence[int]) -> Floats:
    """The value of each told query under the setting that was chosen without it."""
    values_held = np.full(values.shape[1], np.nan)
    for pick, (_, held) in zip(picks, parts.pairs, strict=True):
        values_held[held] = values[pick, held]
    return values_held[parts.told]


def point(option: Option, values: Floats, today: Floats, cost: tuple[int, float | None]) -> Point:
    """Return a setting as a point: its values per query beside today's, and what it costs."""
    gaps = values - today
    error = _BAND * float(gaps.std(ddof=1)) / len(gaps) ** 0.5 if len(gaps) > 1 else 0.0
    gap = float(gaps.mean())
    return Point(option, float(values.mean()), gap, gap - error, gap + error, *cost)


def _knee(points: Sequence[Point], margin: float) -> int:
    """The point of the fewest pairs whose mean is within the margin of the best."""
    best = max(p.mean for p in points)
    good = [i for i, p in enumerate(points) if p.mean >= best - margin]
    return min(good, key=lambda i: points[i].pairs)


@dataclass(frozen=True)
class _Deciding:
    """The verdict on each family, by the rules of `compare`."""

    pool: Pool
    parts: Parts
    rules: ComparisonSettings
    judgments: pa.Table
    depth: int  # of the measure: documents below do not decide

    def with_verdict(self, draft: Choice, trial: Trial) -> Choice:
        options = trial.family.options
        picks = _picks(trial.values, self.parts)
        pools = [self.pool.some(held) for _, held in self.parts.pairs]
        base = [ranked(pool, options[0].setting) for pool in pools]
        other = [
            ranked(pool, options[pick].setting) for pool, pick in zip(pools, picks, strict=True)
        ]
        same = all(_same(a, b) for a, b in zip(base, other, strict=True))
        if same:
            changed = Changed(self.depth, 0, 0)
        else:
            tables = tuple(
                pa.concat_tables(
                    _table(pool, places[:, : self.depth])
                    for pool, places in zip(pools, side, strict=True)
                )
                for side in (base, other)
            )
            ids = [q for pool in pools for q in pool.query_ids]
            measure, gap = self.rules.primary, draft.held.difference
            changed = changed_documents(
                (tables[0], tables[1]), self.judgments, ids, measure, self.depth, gap
            )
        verdict, reason = decide(draft.held, draft.p_corrected, same, changed, self.rules)
        return replace(draft, verdict=verdict, reason=reason)


def _same(one: Grades, other: Grades) -> bool:
    return one.shape == other.shape and bool((one == other).all())


def _table(pool: Pool, places: Grades) -> pa.Table:
    """Rankings as a comparison reads them: query_id, doc_id, rank."""
    rows, ranks = np.nonzero(places != NOTHING)
    ids = pool.doc_ids[rows, places[rows, ranks]]
    return pa.table(
        {
            "query_id": pa.array(np.array(pool.query_ids, object)[rows], pa.string()),
            "doc_id": pa.array(ids, pa.string()),
            "rank": pa.array(ranks + 1, pa.int32()),
        }
    )
