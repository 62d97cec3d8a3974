"""Where labels and people disagree, which labels are stale, and who has the last word: people."""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from reranking.arrow import frame
from reranking.judgments.consensus import RELEVANT, human, one_per_pair

LABEL_SOURCE = "label"
"""The `source` of a grade that a rule gave, where labels and judgments stand in one table."""


def conflicts(
    labels: pa.Table, judgments: pa.Table, *, relevant: int = RELEVANT, graded: bool = False
) -> pa.Table:
    """Labels that a rater contradicts, one row per rating, the most confident labels first.

    Columns: query_id, doc_id, label, probability, score, relevance, source. A contradiction is a
    positive label on a grade below `relevant` or the reverse; with `graded`, any other grade.
    """
    said = frame(labels, ("query_id", "doc_id", "label", "probability", "score"), "labels")
    rated = human(frame(judgments, ("query_id", "doc_id", "relevance", "source"), "judgments"))
    keys = ["query_id", "doc_id"]
    if "query_hash" in rated.columns:
        keys.append("query_hash")
    both = said.filter(pl.col("label").is_not_null()).join(
        rated.select(*keys, "relevance", "source"), on=keys
    )
    differ = (pl.col("label") >= 1) != (pl.col("relevance") >= relevant)
    if graded:
        differ = pl.col("label") != pl.col("relevance")
    sure = (pl.col("probability") - 0.5).abs()
    columns = ["query_id", "doc_id", "label", "probability", "score", "relevance", "source"]
    return (
        both.filter(differ)
        .sort(sure, "query_id", "doc_id", "source", descending=[True, *[False] * 3])
        .select(columns)
        .to_arrow()
    )


def stale(labels: pa.Table, queries: pa.Table, documents: pa.Table) -> pa.Table:
    """The labels whose texts have changed since: query_id, doc_id, label and the reason.

    `queries` and `documents` are the current ones: query_id or doc_id, and text_hash.
    """
    said = frame(labels, ("query_id", "doc_id", "query_hash", "doc_hash", "label"), "labels")
    for kind, table, key in (("query", queries, "query_id"), ("doc", documents, "doc_id")):
        now = frame(table, (key, "text_hash"), f"current {key}s").select(
            key, pl.col("text_hash").alias(f"{kind}_now")
        )
        said = said.join(now.unique(key), on=key, how="left", maintain_order="left")
    reason = (
        pl.when(pl.col("query_now").is_null())
        .then(pl.lit("query gone"))
        .when(pl.col("doc_now").is_null())
        .then(pl.lit("document gone"))
        .when(pl.col("query_now") != pl.col("query_hash"))
        .then(pl.lit("query edited"))
        .when(pl.col("doc_now") != pl.col("doc_hash"))
        .then(pl.lit("document edited"))
    )
    marked = said.with_columns(reason.alias("reason")).filter(pl.col("reason").is_not_null())
    return marked.select("query_id", "doc_id", "label", "reason").to_arrow()


def prefer_human(labels: pa.Table, judgments: pa.Table) -> pa.Table:
    """One grade per pair: people's consensus where somebody judged, else the label.

    Columns: query_id, doc_id, relevance, source (`human` or `label`); unsure labels are left out.
    """
    human = frame(one_per_pair(judgments), (), "judgments").select(
        "query_id", "doc_id", "relevance", pl.lit("human").alias("source")
    )
    said = frame(labels, ("query_id", "doc_id", "label"), "labels")
    rest = said.filter(pl.col("label").is_not_null()).join(
        human, on=["query_id", "doc_id"], how="anti"
    )
    machine = rest.select(
        "query_id",
        "doc_id",
        pl.col("label").alias("relevance"),
        pl.lit(LABEL_SOURCE).alias("source"),
    )
    return pl.concat([human, machine]).sort("query_id", "doc_id").to_arrow()
