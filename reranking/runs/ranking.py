"""From candidates and scores to ranked results. Pure: Arrow in, Arrow out.

rank = score descending, doc_id ascending. The raw logit ranks, since a sigmoid runs out of float32
values at the top; the activation only makes the column `_relevance_score`. A blend ranks by the raw
logit with the legs' scores, and that sum is `_relevance_score`, without an activation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from configs.blending import RRF_K, Blend, Fusion
from configs.part import LEGS
from reranking.arrow import frame
from reranking.runs.fusion import Floats, Legs, blended, fused

_PAIR = ["query_hash", "doc_hash"]


def rank_results(
    candidates: pa.Table,
    scores: pa.Table | None,
    *,
    query_types: Sequence[str],
    limit: int,
    top_k: int | None = None,
    return_score: str = "relevance",
    activation: str = "identity",
    fusion: Fusion | None = None,
    blend: Blend | None = None,
) -> pa.Table:
    """The results of each query type: query_id, query_type, rank, doc_id, _relevance_score.

    `candidates` are of the schema CANDIDATES; `scores` has query_hash, doc_hash and score (raw
    logits), or is None for the first stage, whose score is the sum of 1/(60 + rank) over the legs
    of the query type unless `fusion` says otherwise. With `blend` the score is the logit blended
    with those of the query type's legs. Where `scores` has a column `exact`, rows with an exact
    logit are ranked by it, above all rows without one (null). With return_score "all" come
    `_distance` and `_score`, as far as one of the query types has them. A hybrid ranking is cut to
    `limit`, every ranking to `top_k`.
    """
    rows = frame(candidates)
    if scores is not None:
        names = [n for n in scores.column_names if n in (*_PAIR, "score", "exact")]
        rows = rows.join(frame(scores.select(names)), on=_PAIR, how="left")
    as_is = scores is None or blend is not None
    joined = fusion if scores is None else blend
    views = [_view(rows, t, limit, top_k, scores is None, joined) for t in query_types]
    return _shape(pl.concat(views), query_types, return_score, activation, as_is)


def activated(logits: pl.Series, activation: str) -> pl.Series:
    """`_relevance_score` of raw logits, float32; the sigmoid is taken in float64."""
    if activation == "sigmoid":
        logits = 1.0 / (1.0 + (-logits.cast(pl.Float64)).exp())
    return logits.cast(pl.Float32)


def score_columns(query_types: Sequence[str], return_score: str) -> list[str]:
    """The score columns beside `_relevance_score` that results of these query types carry."""
    if return_score != "all":
        return []
    legs = {leg for t in query_types for leg in LEGS[t]}
    return [name for leg, name in (("vector", "_distance"), ("fts", "_score")) if leg in legs]


def _view(
    rows: pl.DataFrame,
    query_type: str,
    limit: int,
    top_k: int | None,
    first: bool,
    joined: Fusion | Blend | None,
) -> pl.DataFrame:
    legs = LEGS[query_type]
    view = rows_of(rows, query_type).with_columns(inexact=pl.lit(False))
    if "exact" in rows.columns:
        best = pl.coalesce("exact", "score")
        view = view.with_columns(inexact=pl.col("exact").is_null(), score=best)
    if joined is not None:
        view = with_joined_scores(view, query_type, joined)
    elif first:
        parts = [(1.0 / (RRF_K + pl.col(f"{leg}_rank"))).fill_null(0.0) for leg in legs]
        view = view.with_columns(score=pl.sum_horizontal(parts))
    ranked = view.sort(
        "query_id", "inexact", "score", "doc_id", descending=[False, False, True, False]
    ).with_columns(
        rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("query_id"),
        query_type=pl.lit(query_type),
        _distance=pl.col("_distance") if "vector" in legs else pl.lit(None, pl.Float32),
        _score=pl.col("_score") if "fts" in legs else pl.lit(None, pl.Float32),
    )
    return ranked.filter(pl.col("rank") <= cut_of(limit, top_k))


def with_joined_scores(view: pl.DataFrame, query_type: str, joined: Fusion | Blend) -> pl.DataFrame:
    """The candidates of a query type with `score` fused from its legs, or blended with them."""
    if view.is_empty():
        return view.with_columns(score=pl.lit(None, pl.Float64))
    view = view.sort("query_id", "doc_id")
    place = Places.of(view["query_id"])
    legs = legs_of(view, place).only(LEGS[query_type])
    if isinstance(joined, Fusion):
        scores = fused(legs, joined)
    else:
        scores = blended(place.spread(view["score"]), legs, joined)
    return view.with_columns(score=pl.Series(scores[place.rows, place.columns]))


@dataclass(frozen=True)
class Places:
    """Where each of the rows, those of a query side by side, stands in an array by query."""

    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    shape: tuple[int, int]

    @classmethod
    def of(cls, query_ids: pl.Series) -> Places:
        """Return the places of rows that are sorted by query."""
        runs = query_ids.rle_id().to_numpy().astype(np.int64)
        starts = np.searchsorted(runs, runs)
        columns = np.arange(len(runs)) - starts
        shape = (int(runs.max(initial=-1)) + 1, int(columns.max(initial=-1)) + 1)
        return cls(runs, columns, shape)

    def spread(self, values: pl.Series) -> Floats:
        """Return the values by query, NaN where there are none."""
        array = np.full(self.shape, np.nan)
        array[self.rows, self.columns] = values.cast(pl.Float64).fill_null(np.nan).to_numpy()
        return array


def legs_of(rows: pl.DataFrame, place: Places) -> Legs:
    """The ranks and scores that the legs gave the candidates, by query."""
    columns = ("vector_rank", "_distance", "fts_rank", "_score")
    return Legs(*(place.spread(rows[name]) for name in columns))


def rows_of(rows: pl.DataFrame, query_type: str) -> pl.DataFrame:
    """The candidates that a leg of the query type found."""
    ranks = (pl.col(f"{leg}_rank").is_not_null() for leg in LEGS[query_type])
    return rows.filter(pl.any_horizontal(ranks))


def cut_of(limit: int, top_k: int | None) -> int:
    """How many ranks a ranking keeps."""
    return min(limit, top_k) if top_k else limit


def _shape(
    rows: pl.DataFrame,
    query_types: Sequence[str],
    return_score: str,
    activation: str,
    as_is: bool,
) -> pa.Table:
    rows = rows.with_columns(score=activated(rows["score"], "identity" if as_is else activation))
    return rows.select(
        "query_id",
        "query_type",
        "rank",
        "doc_id",
        pl.col("score").cast(pl.Float32).alias("_relevance_score"),
        *score_columns(query_types, return_score),
    ).to_arrow()
