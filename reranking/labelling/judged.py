"""Scored pairs, and the grades that people or labels gave them.

Scored pairs are a table with query_id, doc_id, query_hash, doc_hash, score (raw logit),
vector_rank and fts_rank (null where that leg did not find the document); `other_score` is a second
reranker's logit, `probability` and `other_probability` come from a calibration. Grades are a table
with query_id, doc_id and relevance, one row per pair.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from reranking.arrow import frame
from reranking.errors import InputError
from reranking.judgments.consensus import consensus

PAIR_COLUMNS = (
    "query_id",
    "doc_id",
    "query_hash",
    "doc_hash",
    "score",
    "vector_rank",
    "fts_rank",
)


def pair_frame(pairs: pa.Table, *more: str) -> pl.DataFrame:
    """The scored pairs as polars; InputError for missing columns and scores that are no numbers."""
    result = frame(pairs, (*PAIR_COLUMNS, *more), "scored pairs")
    broken = result.filter(~pl.col("score").is_finite().fill_null(False))
    if broken.height:
        query, doc = broken.select("query_id", "doc_id").row(0)
        raise InputError(
            f"{broken.height} scores are null, NaN or infinite, the first for query {query!r} and "
            f"document {doc!r}; score these pairs again before labelling them"
        )
    return result


def ranked(pairs: pl.DataFrame, column: str = "score") -> pl.DataFrame:
    """The pairs with `position` in their query, from 1: `column` descending, doc_id ascending."""
    ordered = pairs.sort(
        "query_id", column, "doc_id", descending=[False, True, False], nulls_last=True
    )
    return ordered.with_columns(
        pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("query_id").alias("position")
    )


def judged(pairs: pl.DataFrame, judgments: pa.Table) -> pl.DataFrame:
    """The pairs that somebody judged, with `relevance`.

    Where judgments carry query_hash, a grade given to another wording of the query is not used.
    """
    grades = frame(consensus(judgments)).drop("raters")
    keys = ["query_id", "doc_id", *(["query_hash"] if "query_hash" in grades.columns else [])]
    return pairs.join(grades, on=keys, how="inner", maintain_order="left")


def labels_as_grades(labels: pa.Table) -> pa.Table:
    """Labels as grades: query_id, doc_id, relevance, probability, score; unsure rows left out."""
    rows = frame(labels, ("query_id", "doc_id", "label", "probability", "score"), "labels")
    kept = rows.filter(pl.col("label").is_not_null())
    return kept.select(
        "query_id", "doc_id", pl.col("label").alias("relevance"), "probability", "score"
    ).to_arrow()
