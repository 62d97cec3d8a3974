"""Who judged what: several raters' grades brought to one, and joined to the scored pairs.

Scored pairs are a table with query_id, doc_id, query_hash, doc_hash, score (raw logit),
vector_rank and fts_rank (null where that leg did not find the document); `other_score` is a second
reranker's logit, `probability` and `other_probability` come from a calibration. Grades are a table
with query_id, doc_id and relevance, one row per pair.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from reranking import arrow as frames
from reranking.errors import InputError

PAIR_COLUMNS = (
    "query_id",
    "doc_id",
    "query_hash",
    "doc_hash",
    "score",
    "vector_rank",
    "fts_rank",
)
LABELS_PREFIX = "labels:"
"""Starts the source of a grade that a label set gave: no judgment, and no evidence for a label."""
RELEVANT = 1
"""The lowest grade that counts as relevant where nothing else is said: ir_measures' `rel=1`."""


def frame(table: pa.Table, needed: tuple[str, ...], what: str) -> pl.DataFrame:
    """`table` as polars; InputError names the columns that it lacks."""
    missing = [name for name in needed if name not in table.column_names]
    if missing:
        raise InputError(f"{what} lack the columns {missing}; they have {table.column_names}")
    return frames.frame(table)


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


def human(judgments: pl.DataFrame) -> pl.DataFrame:
    """The judgments without the grades that a label set gave."""
    if "source" not in judgments.columns:
        return judgments
    return judgments.filter(~pl.col("source").str.starts_with(LABELS_PREFIX))


def consensus(judgments: pa.Table) -> pa.Table:
    """One row per judged pair: query_id, doc_id, relevance (the lower median) and raters.

    The lower median, because a pair on which raters split evenly must not flatter precision.
    Where judgments carry query_hash, grades of different wordings stay apart. Grades that a label
    set gave (their source starts with `labels:`) are left out.
    """
    rows = human(frame(judgments, ("query_id", "doc_id", "relevance"), "judgments"))
    keys = ["query_id", "doc_id", *(["query_hash"] if "query_hash" in rows.columns else [])]
    merged = rows.group_by(keys).agg(
        pl.col("relevance").quantile(0.5, interpolation="lower").cast(pl.Int32),
        pl.len().cast(pl.Int32).alias("raters"),
    )
    return merged.sort(keys).to_arrow()


def one_per_pair(judgments: pa.Table) -> pa.Table:
    """The consensus, without query_hash; InputError where it mixes wordings of a query."""
    grades = consensus(judgments)
    rows = frame(grades, (), "judgments")
    mixed = rows.filter(rows.select("query_id", "doc_id").is_duplicated())
    if mixed.height:
        raise InputError(
            f"query {mixed['query_id'][0]!r} was judged under several wordings; "
            "give the judgments of its current text only"
        )
    return grades.select(["query_id", "doc_id", "relevance", "raters"])


def judged(pairs: pl.DataFrame, judgments: pa.Table) -> pl.DataFrame:
    """The pairs that somebody judged, with `relevance`.

    Where judgments carry query_hash, a grade given to another wording of the query is not used.
    """
    grades = frame(consensus(judgments), (), "judgments").drop("raters")
    keys = ["query_id", "doc_id", *(["query_hash"] if "query_hash" in grades.columns else [])]
    return pairs.join(grades, on=keys, how="inner", maintain_order="left")


def labels_as_grades(labels: pa.Table) -> pa.Table:
    """Labels as grades: query_id, doc_id, relevance, probability, score; unsure rows left out."""
    rows = frame(labels, ("query_id", "doc_id", "label", "probability", "score"), "labels")
    kept = rows.filter(pl.col("label").is_not_null())
    return kept.select(
        "query_id", "doc_id", pl.col("label").alias("relevance"), "probability", "score"
    ).to_arrow()


def binarised(grades: pa.Table, relevant: int = RELEVANT) -> pa.Table:
    """The grades with relevance 1 where it is at least `relevant`, else 0."""
    rows = frame(grades, ("relevance",), "grades")
    return rows.with_columns((pl.col("relevance") >= relevant).cast(pl.Int32)).to_arrow()
