"""From candidates and scores to ranked results. Pure: Arrow in, Arrow out.

rank = score descending, doc_id ascending. The raw logit ranks, since a sigmoid runs out of float32
values at the top; the activation only makes the column `_relevance_score`.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from configs.part import LEGS
from reranking.arrow import frame

_PAIR = ["query_hash", "doc_hash"]
RRF_K = 60  # LanceDB's RRFReranker and Cormack et al. (2009)


def rank_results(
    candidates: pa.Table,
    scores: pa.Table | None,
    *,
    query_types: Sequence[str],
    limit: int,
    top_k: int | None = None,
    return_score: str = "relevance",
    activation: str = "identity",
) -> pa.Table:
    """The results of each query type: query_id, query_type, rank, doc_id, _relevance_score.

    `candidates` are of the schema CANDIDATES; `scores` has query_hash, doc_hash and score (raw
    logits), or is None for the first stage, whose score is the sum of 1/(60 + rank) over the legs
    of the query type. Where `scores` has a column `exact`, rows with an exact logit are ranked by
    it, above all rows without one (null). With return_score "all" come `_distance` and `_score`, as
    far as one of the query types has them. A hybrid ranking is cut to `limit`, every ranking to
    `top_k`.
    """
    rows = frame(candidates)
    if scores is not None:
        names = [n for n in scores.column_names if n in (*_PAIR, "score", "exact")]
        rows = rows.join(frame(scores.select(names)), on=_PAIR, how="left")
    views = [_view(rows, t, limit, top_k, scores is None) for t in query_types]
    return _shape(pl.concat(views), query_types, return_score, activation, scores is None)


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
    rows: pl.DataFrame, query_type: str, limit: int, top_k: int | None, first: bool
) -> pl.DataFrame:
    legs = LEGS[query_type]
    view = rows_of(rows, query_type).with_columns(inexact=pl.lit(False))
    if "exact" in rows.columns:
        best = pl.coalesce("exact", "score")
        view = view.with_columns(inexact=pl.col("exact").is_null(), score=best)
    if first:
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
    first: bool,
) -> pa.Table:
    rows = rows.with_columns(score=activated(rows["score"], "identity" if first else activation))
    return rows.select(
        "query_id",
        "query_type",
        "rank",
        "doc_id",
        pl.col("score").cast(pl.Float32).alias("_relevance_score"),
        *score_columns(query_types, return_score),
    ).to_arrow()
