"""What equal scores do to a ranking's measure: by ids is one order of many, and may flatter.

Documents of equal scores are ranked by their ids, which says nothing about them. A measure of a
ranking with ties is therefore also given as its mean over random orders of equal scores, and as the
least and the most that such an order could give (McSherry & Najork, ECIR 2008).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from reranking.evaluation.array_measures import ArrayMeasure
from reranking.evaluation.statistics import Floats
from reranking.evaluation.sweep.pool import Pool
from reranking.evaluation.sweep.settings import Setting, cut_off, grades_by_rank, scores_of

DRAWS: Final = 200  # random orders that the mean is over, fewer if there is much to order
_LEAST_DRAWS: Final = 20
_CELLS: Final = 40_000_000  # scores that all draws may order together
_SEED: Final = 17
_SEEN: Final = 5e-4  # a mean that differs by less reads the same


@dataclass(frozen=True)
class Ties:
    """One ranking's measure over its judged queries: by ids, in random order, at worst and best.

    `at_cut` counts the queries in which equal scores stand on both sides of rank `k`.
    """

    measure: str
    k: int
    queries: int
    at_cut: int
    by_id: float
    expected: float
    low: float
    high: float
    by_query: dict[str, float] = field(repr=False, compare=False)  # in random order

    @property
    def matter(self) -> bool:
        """Whether the order of equal scores shows in the mean."""
        return abs(self.expected - self.by_id) >= _SEEN

    @property
    def sentence(self) -> str:
        """What the ties do, in one sentence."""
        return (
            f"{self.at_cut} of {self.queries} queries have equal scores on both sides of rank "
            f"{self.k}; {self.measure} is {self.by_id:.3f} in the order of ids, "
            f"{self.expected:.3f} in random order ({self.low:.3f} to {self.high:.3f})"
        )


def ties(
    pool: Pool, setting: Setting, name: str, measure: ArrayMeasure, cutoff: int | None
) -> Ties:
    """Return what equal scores do to `measure`, whose cutoff is None if all ranks count."""
    scores = scores_of(pool, setting)
    order = np.argsort(-scores, axis=1, kind="stable")
    ordered = np.take_along_axis(scores, order, axis=1)
    k = min(cutoff or setting.cut, setting.cut)
    at_cut = np.zeros(len(scores), bool)
    if scores.shape[1] > k:
        at_cut = ordered[:, k - 1] == ordered[:, k]
    tied = (ordered[:, :-1] == ordered[:, 1:])[:, :k].any(axis=1)
    by_id = measure(grades_by_rank(pool, cut_off(order[:, :k], scores, setting)), pool.judged)
    expected, low, high = by_id.copy(), by_id.copy(), by_id.copy()
    rows = np.flatnonzero(tied)
    if len(rows):
        part = pool.some(rows)
        # what stands below the group that holds rank k cannot come above it
        last = ordered[rows, min(k, ordered.shape[1]) - 1][:, None]
        width = max(k, int((ordered[rows] >= last).sum(axis=1).max()))
        places, own = order[rows, :width], -ordered[rows, :width]

        def value(second: Floats) -> Floats:
            top = np.take_along_axis(places, np.lexsort((second, own), axis=1)[:, :k], axis=1)
            return measure(grades_by_rank(part, cut_off(top, scores[rows], setting)), part.judged)

        draws = int(np.clip(_CELLS // own.size, _LEAST_DRAWS, DRAWS))
        rng = np.random.default_rng(_SEED)
        drawn = sum((value(rng.random(own.shape)) for _ in range(draws)), np.zeros(len(rows)))
        expected[rows] = drawn / draws
        grades = np.take_along_axis(np.maximum(part.grades, 0), places, axis=1)
        low[rows], high[rows] = value(grades), value(-grades)
    means = [float(v.mean()) if len(v) else 0.0 for v in (by_id, expected, low, high)]
    by_query = dict(zip(pool.query_ids, expected.tolist(), strict=True))
    return Ties(
        measure=name,
        k=k,
        queries=len(scores),
        at_cut=int(at_cut.sum()),
        by_id=means[0],
        expected=means[1],
        low=means[2],
        high=means[3],
        by_query=by_query,
    )
