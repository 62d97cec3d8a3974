"""The usual measures over arrays: many queries, and many rankings of each, in one call.

Values are ir-measures' (a property test holds them equal). A ranking is a row of grades in rank
order: UNJUDGED where nobody graded the document, NOTHING behind the ranking's end. The judged
grades of a query stand in a row of their own, best first, zeros behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from ir_measures.measures import Measure

from reranking.errors import ConfigError

Floats = npt.NDArray[np.float64]
Grades = npt.NDArray[np.int64]
ArrayMeasure = Callable[[Grades, Grades], Floats]
"""(grades by rank, judged grades best first), both (..., queries, n), to values (..., queries)."""

UNJUDGED: Final = -1
NOTHING: Final = -2
KNOWN: Final = ("nDCG", "RR", "R", "P", "AP", "Success", "Judged")


def array_measure(measure: Measure) -> ArrayMeasure:
    """Return the function that computes `measure`; raises ConfigError for one that none does."""
    made = _made(measure)
    if made is None:
        raise ConfigError(
            f"{measure} cannot be computed for many rankings at once: expected one of "
            f"{', '.join(KNOWN)}, with or without a cutoff, rel and dcg (such as nDCG@10, RR@10, "
            "P(rel=2)@5)"
        )
    return made


def deepest(measures: Sequence[Measure]) -> int | None:
    """Return how many ranks can matter to the measures; None if all can."""
    cutoffs = [m.params.get("cutoff") for m in measures]
    return None if None in cutoffs else max(cutoffs)


def _made(measure: Measure) -> ArrayMeasure | None:
    given: dict[str, Any] = dict(measure.params)
    cutoff: int | None = given.pop("cutoff", None)
    if measure.NAME == "nDCG":
        dcg = given.pop("dcg", "log2")
        gains = {"log2": _linear, "exp-log2": _exponential}.get(dcg)
        if gains is None or given:
            return None
        return lambda ranked, judged: _ndcg(ranked, judged, cutoff, gains)
    if measure.NAME == "Judged":
        return None if given else (lambda ranked, judged: _judged(ranked, cutoff))
    rel = given.pop("rel", 1)
    function = _BY_RELEVANCE.get(measure.NAME)
    if function is None or given or rel < 1:
        return None
    return lambda ranked, judged: function(ranked[..., :cutoff] >= rel, judged >= rel, cutoff)


def _ndcg(
    ranked: Grades, judged: Grades, cutoff: int | None, gains: Callable[[Grades], Floats]
) -> Floats:
    ideal = _dcg(judged[..., :cutoff], gains)
    gained = _dcg(ranked[..., :cutoff], gains)
    return _quotient(gained, ideal)


def _dcg(grades: Grades, gains: Callable[[Grades], Floats]) -> Floats:
    discounts = 1.0 / np.log2(np.arange(2, grades.shape[-1] + 2))
    return np.asarray(gains(np.maximum(grades, 0)) @ discounts, np.float64)


def _linear(grades: Grades) -> Floats:
    return grades.astype(np.float64)


def _exponential(grades: Grades) -> Floats:
    return np.exp2(grades) - 1.0


def _judged(ranked: Grades, cutoff: int | None) -> Floats:
    top = ranked[..., :cutoff]
    shown = (top > NOTHING).sum(axis=-1)
    known = (top > UNJUDGED).sum(axis=-1)
    return _quotient(known, shown)


Bools = npt.NDArray[np.bool_]


def _reciprocal_rank(hits: Bools, judged: Bools, cutoff: int | None) -> Floats:
    if not hits.shape[-1]:
        return np.zeros(hits.shape[:-1])
    return np.asarray(hits.any(axis=-1) / (1.0 + hits.argmax(axis=-1)), np.float64)


def _recall(hits: Bools, judged: Bools, cutoff: int | None) -> Floats:
    return _quotient(hits.sum(axis=-1), judged.sum(axis=-1))


def _precision(hits: Bools, judged: Bools, cutoff: int | None) -> Floats:
    assert cutoff is not None  # parse_measures demands one
    return np.asarray(hits.sum(axis=-1) / cutoff, np.float64)


def _average_precision(hits: Bools, judged: Bools, cutoff: int | None) -> Floats:
    precisions = hits.cumsum(axis=-1) / np.arange(1, hits.shape[-1] + 1)
    return _quotient((precisions * hits).sum(axis=-1), judged.sum(axis=-1))


def _success(hits: Bools, judged: Bools, cutoff: int | None) -> Floats:
    return np.asarray(hits.any(axis=-1), np.float64)


def _quotient(values: npt.NDArray[Any], by: npt.NDArray[Any]) -> Floats:
    """values / by, 0 where there is nothing to divide by."""
    divisors = np.broadcast_to(by, values.shape)
    quotients: Floats = np.zeros(values.shape)
    np.divide(values, divisors, out=quotients, where=divisors > 0)
    return quotients


_BY_RELEVANCE: Final[dict[str, Callable[[Bools, Bools, int | None], Floats]]] = {
    "RR": _reciprocal_rank,
    "R": _recall,
    "P": _precision,
    "AP": _average_precision,
    "Success": _success,
}
