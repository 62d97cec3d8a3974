"""Which documents people should judge next, the most useful first.

For the verdict between runs: a relevant judgment on a document moves the difference of two runs'
DCG by the difference of the discounts 1/log2(1 + rank) at which they show it. That difference,
between the run that shows it best and the one that shows it worst (0 beyond k), is the priority: a
document that all runs show at the same rank cannot change the verdict, however high it stands.

For the calibration: 4p(1-p), the variance of the answer relative to a coin toss, divided by one
plus the judgments that its score region (a tenth of all pairs) already has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import polars as pl
import pyarrow as pa

from reranking.arrow import frame
from reranking.errors import InputError
from reranking.judgments.consensus import human
from reranking.labelling.judged import judged, pair_frame

REGIONS = 10


def work_list(
    runs: Mapping[str, pa.Table],
    judgments: pa.Table,
    *,
    k: int = 10,
    pairs: pa.Table | None = None,
    order: Literal["verdict", "calibration"] = "verdict",
) -> pa.Table:
    """The runs' unjudged top-k documents, the most useful first.

    Each run is a table with query_id, doc_id and rank (from 1) of one query type. Columns:
    query_id, doc_id, priority, best_rank, runs (the names of those that show it in their top k).
    A grade that a label set gave does not count as judged, and the judgments are taken to be those
    of the queries' current texts. `pairs` are scored pairs, needed for the order `calibration`;
    with one run alone the order `verdict` goes by its discount.
    """
    if not runs:
        raise InputError("a work list needs at least one run")
    pool = _pool(runs, k)
    known = human(frame(judgments, ("query_id", "doc_id"), "judgments"))
    pool = pool.join(known, on=["query_id", "doc_id"], how="anti")
    if order == "calibration":
        if pairs is None:
            raise InputError("the order `calibration` needs the scored pairs")
        pool = _by_calibration(pool, pairs, judgments)
    return (
        pool.sort(
            "priority", "best_rank", "query_id", "doc_id", descending=[True, False, False, False]
        )
        .select("query_id", "doc_id", "priority", "best_rank", "runs")
        .to_arrow()
    )


def _pool(runs: Mapping[str, pa.Table], k: int) -> pl.DataFrame:
    """The union of the runs' top k with each document's spread of discounts as priority."""
    shown = pl.concat(
        frame(table, ("query_id", "doc_id", "rank"), f"run {name!r}: results")
        .filter(pl.col("rank") <= k)
        .select("query_id", "doc_id", pl.col("rank").cast(pl.Int32), pl.lit(name).alias("run"))
        for name, table in runs.items()
    )
    if shown.select("query_id", "doc_id", "run").is_duplicated().any():
        raise InputError("a run shows a document twice for a query; give results of one query type")
    discount = 1 / (pl.col("rank") + 1).log(2)
    pooled = shown.group_by("query_id", "doc_id").agg(
        pl.col("rank").min().alias("best_rank"),
        pl.col("run").sort().alias("runs"),
        discount.max().alias("best"),
        discount.min().alias("worst"),
    )
    everywhere = (pl.col("runs").list.len() == len(runs)) & pl.lit(len(runs) > 1)
    worst = pl.when(everywhere).then("worst").otherwise(0.0)
    return pooled.with_columns((pl.col("best") - worst).alias("priority"))


def _by_calibration(pool: pl.DataFrame, pairs: pa.Table, judgments: pa.Table) -> pl.DataFrame:
    """The pool with the priority of the module's second paragraph; unscored documents come last."""
    scored = pair_frame(pairs)
    region = (pl.col("score").rank("ordinal") - 1) * REGIONS // pl.len()
    scored = scored.with_columns(region.cast(pl.Int32).alias("region"))
    full = judged(scored, judgments).group_by("region").len("judged")
    if "probability" not in scored.columns:
        scored = scored.with_columns(pl.lit(0.5).alias("probability"))
    p = pl.col("probability")
    rated = scored.join(full, on="region", how="left").select(
        "query_id",
        "doc_id",
        (4 * p * (1 - p) / (1 + pl.col("judged").fill_null(0))).alias("priority"),
    )
    joined = pool.drop("priority").join(rated, on=["query_id", "doc_id"], how="left")
    return joined.with_columns(pl.col("priority").fill_null(0.0))


def with_texts(work: pa.Table, queries: pa.Table, documents: pa.Table) -> pa.Table:
    """The work list with what a rater reads: query and document, and the query's hash.

    `queries` has query_id, text, text_hash; `documents` has doc_id and text. InputError where a
    text is missing.
    """
    asked = frame(queries, ("query_id", "text", "text_hash"), "queries").select(
        "query_id", pl.col("text").alias("query"), pl.col("text_hash").alias("query_hash")
    )
    read = frame(documents, ("doc_id", "text"), "documents").select(
        "doc_id", pl.col("text").alias("document")
    )
    rows = frame(work, ("query_id", "doc_id"), "work list")
    full = rows.join(asked, on="query_id", how="left", maintain_order="left").join(
        read, on="doc_id", how="left", maintain_order="left"
    )
    lost = full.filter(pl.col("query").is_null() | pl.col("document").is_null())
    if lost.height:
        query, doc = lost.select("query_id", "doc_id").row(0)
        raise InputError(f"{lost.height} texts are missing, the first for {query!r} and {doc!r}")
    return full.to_arrow()
