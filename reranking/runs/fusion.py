"""The scores of the legs joined with each other and with the reranker's. Pure: arrays in and out.

Candidates stand in arrays of (queries, documents), NaN where a leg did not find the document.
Fusion: Cormack et al. (2009) for reciprocal ranks, Bruch et al. (2023) for convex combinations;
`distribution` is what Qdrant calls distribution-based score fusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt

from configs.blending import Blend, Fusion

Floats = npt.NDArray[np.float64]

PLAIN: Final = Fusion()
_SPREAD: Final = 3.0  # standard deviations around the mean that a scaled score covers


@dataclass(frozen=True)
class Legs:
    """What the legs gave the candidates, (queries, documents) each: ranks and raw scores."""

    vector_rank: Floats
    distance: Floats
    fts_rank: Floats
    bm25: Floats

    def only(self, names: Sequence[str], depth: int | None = None) -> Legs:
        """Return the legs `names`, down to rank `depth`; the others as if they found nothing."""
        kept = self
        for leg, score in (("vector", "distance"), ("fts", "bm25")):
            rank: Floats = getattr(self, f"{leg}_rank")
            if leg not in names:
                inside = np.zeros(rank.shape, bool)
            elif depth is None:
                continue
            else:
                inside = rank <= depth
            values = {f"{leg}_rank": rank, score: getattr(self, score)}
            kept = replace(kept, **{n: np.where(inside, v, np.nan) for n, v in values.items()})
        return kept

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Where a leg found the document."""
        return ~(np.isnan(self.vector_rank) & np.isnan(self.fts_rank))


def fused(legs: Legs, fusion: Fusion | None = None) -> Floats:
    """Return the first stage's scores, NaN where no leg found the document.

    A leg that did not find a document adds nothing, with two exceptions: by theoretical scale a
    document has some cosine, at most the lowest that the leg found.
    """
    how = fusion or PLAIN
    if how.method == "rrf":
        parts = [1.0 / (how.k + rank) for rank in (legs.vector_rank, legs.fts_rank)]
    elif how.method == "distribution":
        parts = [_by_distribution(-legs.distance), _by_distribution(legs.bm25)]
    elif how.scale == "min-max":
        parts = [_min_max(-legs.distance), _min_max(legs.bm25)]
    else:
        raised = _lowest_for_missing(1.0 - legs.distance) + 1.0
        parts = [raised / _best(raised), _of_best(legs.bm25)]
    # twice the shares, so that even ones leave each leg's term as it is
    weights = (2.0 * how.vector, 2.0 * (1.0 - how.vector))
    total = sum((w * _zero(p) for w, p in zip(weights, parts, strict=True)), np.zeros(()))
    return np.where(legs.present, total, np.nan)


def blended(
    logits: Floats, legs: Legs, blend: Blend, terms: tuple[Floats, Floats] | None = None
) -> Floats:
    """Return the final scores of raw logits and legs, NaN where no leg found the document.

    By scores: logit + vector * cosine + fts * BM25 / the query's best BM25. A document that only
    the FTS leg found has some cosine, at most the lowest that the vector leg found, which is taken;
    a document without the words has no BM25. By ranks: the sum of reciprocal ranks, where equal
    logits share the better rank. Of a leg that found nothing for the query no term is left.
    `terms` are those of `scaled`, if they are known already.
    """
    if blend.method == "ranks":
        own = _ranks(np.where(legs.present, logits, np.nan))
        parts = [1.0 / (blend.k + rank) for rank in (own, legs.vector_rank, legs.fts_rank)]
        total = _zero(parts[0]) + blend.vector * _zero(parts[1]) + blend.fts * _zero(parts[2])
    else:
        near, words = scaled(legs, blend) if terms is None else terms
        total = logits + blend.vector * near + blend.fts * words
    return np.where(legs.present, total, np.nan)


def scaled(legs: Legs, blend: Blend) -> tuple[Floats, Floats]:
    """Return the terms of both legs that `blend` weighs, 0 where there is none."""
    if blend.scale == "min-max":
        return _zero(_min_max(-legs.distance)), _zero(_min_max(legs.bm25))
    return _zero(_lowest_for_missing(1.0 - legs.distance)), _zero(_of_best(legs.bm25))


def _zero(values: Floats) -> Floats:
    return np.where(np.isnan(values), 0.0, values)


def _best(values: Floats) -> Floats:
    """The largest of each query, 1 where there is none above 0: a divisor."""
    best = np.fmax.reduce(values, axis=1, keepdims=True, initial=-np.inf)
    return np.where(best > 0, best, 1.0)


def _of_best(values: Floats) -> Floats:
    return values / _best(values)


def _lowest(values: Floats) -> Floats:
    lowest: Floats = np.fmin.reduce(values, axis=1, keepdims=True, initial=np.inf)
    return lowest


def _lowest_for_missing(values: Floats) -> Floats:
    """`values` with each query's lowest where there is none; none at all where all are missing."""
    lowest = _lowest(values)
    return np.where(np.isnan(values), np.where(np.isfinite(lowest), lowest, np.nan), values)


def _min_max(values: Floats) -> Floats:
    """Each query's values from 0 to 1; equal ones are 1: the leg did find them."""
    best = np.fmax.reduce(values, axis=1, keepdims=True, initial=-np.inf)
    span = best - _lowest(values)
    with np.errstate(invalid="ignore"):
        scaled = (values - _lowest(values)) / np.where(span > 0, span, 1.0)
    return np.where(span > 0, scaled, np.where(np.isnan(values), np.nan, 1.0))


def _by_distribution(values: Floats) -> Floats:
    """Each query's values as places between mean - 3 and mean + 3 standard deviations, 0 to 1.

    Values that do not differ are in the middle, as in Qdrant.
    """
    known = ~np.isnan(values)
    count = np.maximum(known.sum(axis=1, keepdims=True), 1)
    mean = _zero(values).sum(axis=1, keepdims=True) / count
    squares = np.where(known, (values - mean) ** 2, 0.0).sum(axis=1, keepdims=True)
    deviation = np.sqrt(squares / np.maximum(count - 1, 1))
    width = np.where(deviation > 0, 2 * _SPREAD * deviation, np.inf)
    return np.where(known, np.clip((values - mean) / width + 0.5, 0.0, 1.0), np.nan)


def _ranks(scores: Floats) -> Floats:
    """Ranks from 1, best first, within each query; equal scores share the better rank."""
    order = np.argsort(-scores, axis=1, kind="stable")  # NaN comes last
    ordered = np.take_along_axis(scores, order, axis=1)
    place = np.broadcast_to(np.arange(1.0, scores.shape[1] + 1), scores.shape)
    starts = np.ones(scores.shape, bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    shared = np.maximum.accumulate(np.where(starts, place, 0.0), axis=1)
    ranks = np.empty_like(scores)
    np.put_along_axis(ranks, order, shared, axis=1)
    return np.where(np.isnan(scores), np.nan, ranks)
