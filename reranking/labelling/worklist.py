"""Which documents people should judge next, the most useful first.

For the verdict between runs: a relevant judgment on a document moves the difference of two runs'
DCG by the difference of the discounts 1/log2(1 + rank) at which they show it. That difference,
between the run that shows it best and the one that shows it worst (0 beyond k), is the priority: a
document that all runs show at the same rank cannot change the verdict, however high it stands.

For the calibration: all scored pairs are asked about, not only what runs show, since a judgment
speaks for its own score region (a tenth of the pairs) alone. Regions take turns as seats go to
parties: a region's next pair has the priority weight / (1 + pairs judged or listed before it), and
the region of the cut has four times the weight of a far one. Within a region a hash picks the pair,
so that what is judged there is a sample of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import polars as pl
import pyarrow as pa

from reranking.arrow import frame
from reranking.errors import InputError
from reranking.fingerprints import digest
from reranking.judgments.consensus import human
from reranking.labelling.judged import judged, pair_frame

REGIONS = 10
_AT_CUT = 3.0  # weight that the region of the cut has beyond the 1 of a far one


def work_list(
    runs: Mapping[str, pa.Table],
    judgments: pa.Table,
    *,
    k: int = 10,
    pairs: pa.Table | None = None,
    order: Literal["verdict", "calibration"] = "verdict",
    cut: float | None = None,
) -> pa.Table:
    """Return the runs' unjudged top-k documents, the most useful first.

    Each run is a table with query_id, doc_id and rank (from 1) of one query type. Columns:
    query_id, doc_id, priority, best_rank, runs (the names of those that show it in their top k).
    A grade that a label set gave does not count as judged, and the judgments are taken to be those
    of the queries' current texts. With one run alone the order `verdict` goes by its discount. The
    order `calibration` needs `pairs`, the scored pairs, and lists them instead (best_rank and runs
    are null beyond the top k); `cut` is the raw score around which it asks most, None: evenly.
    """
    if not runs:
        raise InputError("a work list needs at least one run")
    pool = _pool(runs, k)
    known = human(frame(judgments, ("query_id", "doc_id"), "judgments"))
    pool = pool.join(known, on=["query_id", "doc_id"], how="anti")
    if order == "calibration":
        if pairs is None:
            raise InputError("the order `calibration` needs the scored pairs")
        pool = _by_calibration(pool, pairs, judgments, cut).join(
            known, on=["query_id", "doc_id"], how="anti"
        )
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


def _by_calibration(
    pool: pl.DataFrame, pairs: pa.Table, judgments: pa.Table, cut: float | None
) -> pl.DataFrame:
    """All scored pairs with their priority, and the documents of the pool without a score last."""
    keys = ["query_id", "doc_id"]
    region = (pl.struct("score", *keys).rank("ordinal") - 1) * REGIONS // pl.len()
    scored = pair_frame(pairs).with_columns(region.cast(pl.Int32).alias("region"))
    full = judged(scored, judgments).group_by("region").len("judged")
    weight = pl.lit(1.0)
    if cut is not None:
        at = int(scored.select(pl.col("region").filter(pl.col("score") >= cut).min()).item() or 0)
        if not scored.filter(pl.col("score") >= cut).height:
            at = REGIONS - 1
        weight = 1 + _AT_CUT * 0.5 ** (pl.col("region") - at).abs()
    drawn = [
        digest(f"{query}\0{doc}".encode("utf-8", "surrogatepass"))
        for query, doc in scored.select(keys).iter_rows()
    ]
    known = judged(scored, judgments).select(*keys, pl.lit(True).alias("known"))
    turns = (
        scored.with_columns(pl.Series("drawn", drawn, pl.Binary))
        .join(known.unique(keys), on=keys, how="left")
        .filter(pl.col("known").is_null())
        .join(full, on="region", how="left")
        .with_columns(pl.col("drawn").rank("ordinal").over("region").alias("turn"))
    )
    before = pl.col("judged").fill_null(0) + pl.col("turn")  # turns count from 1
    rated = turns.select(*keys, (weight / before).alias("priority"))
    joined = pool.drop("priority").join(rated, on=keys, how="full", coalesce=True)
    return joined.with_columns(pl.col("priority").fill_null(0.0))


def with_texts(work: pa.Table, queries: pa.Table, documents: pa.Table) -> pa.Table:
    """The work list with what a rater reads: query and document, and the query's hash.

    `queries` has query_id, text, text_hash; `documents` has doc_id, text and perhaps title. Raises
    InputError if a text is missing.
    """
    asked = frame(queries, ("query_id", "text", "text_hash"), "queries").select(
        "query_id", pl.col("text").alias("query"), pl.col("text_hash").alias("query_hash")
    )
    read = frame(documents, ("doc_id", "text"), "documents")
    if "title" not in read.columns:
        read = read.with_columns(pl.lit(None, pl.String).alias("title"))
    read = read.select("doc_id", "title", pl.col("text").alias("document"))
    rows = frame(work, ("query_id", "doc_id"), "work list")
    full = rows.join(asked, on="query_id", how="left", maintain_order="left").join(
        read, on="doc_id", how="left", maintain_order="left"
    )
    lost = full.filter(pl.col("query").is_null() | pl.col("document").is_null())
    if lost.height:
        query, doc = lost.select("query_id", "doc_id").row(0)
        raise InputError(f"{lost.height} texts are missing, the first for {query!r} and {doc!r}")
    return full.to_arrow()
