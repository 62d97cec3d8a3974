"""Measures that keep ir-measures' name and notation but are computed here.

`nDCG(dcg='exp-log2')` runs a perl program there, which refuses query ids with letters; `Accuracy`
divides by zero where only relevant documents were found; `Judged` sorts every ranking again, and
we always compute it. Each function takes one query: the grades of its ranking in rank order
(None = unjudged) and all its judged grades (none negative).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import ir_measures

from reranking.errors import InputError

Grades = Sequence[int | None]
OwnMeasure = Callable[[Grades, Sequence[int]], float]

_MAX_GRADE: Final = 60  # 2**60 is still exact as a sum of floats; real grades are below ten


def own_measure(measure: ir_measures.Measure) -> OwnMeasure | None:
    """Return the function that computes `measure` for one query; None if ir-measures does it."""
    cutoff: int | None = measure.params.get("cutoff")
    if measure.NAME == "nDCG" and measure.params.get("dcg") == "exp-log2":
        if measure.params.keys() - {"cutoff", "dcg"}:
            raise ValueError("exponential gain cannot be combined with gains or judged_only")
        return lambda ranked, judged: exponential_ndcg(ranked, judged, cutoff)
    if measure.NAME == "Accuracy":
        rel: int = measure.params.get("rel", 1)
        return lambda ranked, judged: accuracy(ranked, rel, cutoff)
    if measure.NAME == "Judged":
        return lambda ranked, judged: judged_share(ranked, cutoff)
    return None


def judged_share(ranked: Grades, cutoff: int | None = None) -> float:
    """Return the share of the top documents that have a grade; 0 for an empty ranking."""
    top = ranked[:cutoff]
    return 1.0 - top.count(None) / len(top) if top else 0.0


def exponential_ndcg(ranked: Grades, judged: Sequence[int], cutoff: int | None = None) -> float:
    """Return nDCG with gain 2**grade - 1 and discount log2(1 + rank); 0 if nothing is relevant.

    The ideal ranking is that of all judged documents. Burges et al., ICML 2005 (RankNet).
    """
    if max(judged, default=0) > _MAX_GRADE:
        raise InputError(
            f"grade {max(judged)} is too large for exponential gain (at most {_MAX_GRADE}): "
            "use nDCG with linear gain, or map the grades to a short scale"
        )
    ideal = _exponential_dcg(sorted(judged, reverse=True)[:cutoff])
    return _exponential_dcg(ranked[:cutoff]) / ideal if ideal else 0.0


def _exponential_dcg(grades: Grades) -> float:
    gains = (((1 << grade) - 1) / math.log2(i + 2) for i, grade in enumerate(grades) if grade)
    return math.fsum(gains)


def accuracy(ranked: Grades, rel: int = 1, cutoff: int | None = None) -> float:
    """Return the share of (relevant, other) pairs in the ranking that stand in the right order.

    0 without a relevant document (ir-measures drops such queries), 1 with no other document.
    """
    others = wrong = relevant = 0
    for grade in ranked[:cutoff]:
        if (grade or 0) >= rel:
            relevant += 1
            wrong += others
        else:
            others += 1
    if not relevant:
        return 0.0
    return 1.0 - wrong / (relevant * others) if others else 1.0
