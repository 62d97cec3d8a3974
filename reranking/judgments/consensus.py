"""Several raters' grades of a pair brought to one.

Judgments are a table with query_id, doc_id, relevance and perhaps source (the rater) and
query_hash (the wording of the query that was judged). Grades have one row per pair.
"""

from __future__ import annotations

from typing import Final

import polars as pl
import pyarrow as pa

from reranking.arrow import frame
from reranking.errors import InputError

LABELS_PREFIX: Final = "labels:"
"""Starts the source of a grade that a label set gave: no judgment, and no evidence for a label."""
RELEVANT: Final = 1
"""The lowest grade that counts as relevant if nothing else is said: ir_measures' `rel=1`."""
_PAIR: Final = ["query_id", "doc_id"]


def human(judgments: pl.DataFrame) -> pl.DataFrame:
    """Return the judgments without the grades that a label set gave."""
    if "source" not in judgments.columns:
        return judgments
    return judgments.filter(~from_labels())


def from_labels() -> pl.Expr:
    """Return whether a row's `source` is a label set and not a person."""
    return pl.col("source").str.starts_with(LABELS_PREFIX)


def lower_median() -> pl.Expr:
    """Return the grade of a group of raters.

    The lower median, because a pair on which raters split evenly must not flatter precision.
    """
    return pl.col("relevance").quantile(0.5, interpolation="lower").cast(pl.Int32)


def consensus(judgments: pa.Table) -> pa.Table:
    """Return one row per judged pair: query_id, doc_id, relevance (the lower median) and raters.

    If judgments carry query_hash, grades of different wordings stay apart. Grades that a label set
    gave (their source starts with `labels:`) are left out. Raises InputError if a column is
    missing.
    """
    rows = human(frame(judgments, [*_PAIR, "relevance"], "judgments"))
    keys = [*_PAIR, *(["query_hash"] if "query_hash" in rows.columns else [])]
    merged = rows.group_by(keys).agg(lower_median(), pl.len().cast(pl.Int32).alias("raters"))
    return merged.sort(keys).to_arrow()


def one_per_pair(judgments: pa.Table) -> pa.Table:
    """Return the consensus without query_hash; raises InputError if wordings of a query mix."""
    grades = consensus(judgments)
    rows = frame(grades)
    mixed = rows.filter(rows.select(_PAIR).is_duplicated())
    if mixed.height:
        raise InputError(
            f"query {mixed['query_id'][0]!r} was judged under several wordings; "
            "give the judgments of its current text only"
        )
    return grades.select([*_PAIR, "relevance", "raters"])


def binarised(grades: pa.Table, relevant: int = RELEVANT) -> pa.Table:
    """Return the grades with relevance 1 if it is at least `relevant`, else 0."""
    rows = frame(grades, ["relevance"], "grades")
    return rows.with_columns((pl.col("relevance") >= relevant).cast(pl.Int32)).to_arrow()
