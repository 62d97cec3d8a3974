"""Means of per-query values: per stage, and per slice of the queries (their tags, their length)."""

from __future__ import annotations

from typing import Final

import polars as pl
import pyarrow as pa

from reranking.arrow import frame

GROUP: Final = ["query_type", "stage", "measure"]
LENGTHS: Final = ((2, "1-2 words"), (5, "3-5 words"), (10, "6-10 words"))
LONGEST: Final = "11 words or more"
MIN_SLICE: Final = 5
"""Fewer queries are noise: such a slice is neither the worst one nor gated as one of all."""


def summarise(metrics: pa.Table) -> pa.Table:
    """Return (query_type, stage, measure, queries, mean) of one run's `metrics` (METRICS).

    A mean is over the queries with a value; counting measures (NumRet ...) are averaged too.
    """
    means = frame(metrics).group_by(GROUP, maintain_order=True).agg(_QUERIES, _MEAN)
    return means.to_arrow().cast(SUMMARY)


def slice_measures(metrics: pa.Table, queries: pa.Table) -> pa.Table:
    """Return the means per slice: (kind, slice, query_type, stage, measure, queries, mean).

    `kind` is `tag` (a query counts in each of its tags) or `length`, by words of the query's
    text. `queries` has query_id, text and optionally tags.
    """
    means = (
        frame(metrics)
        .join(query_slices(queries), on="query_id", how="inner")
        .group_by("kind", "slice", *GROUP, maintain_order=True)
        .agg(_QUERIES, _MEAN)
        .sort("kind", "slice", *GROUP)
    )
    return means.to_arrow().cast(SLICES)


def query_slices(queries: pa.Table) -> pl.DataFrame:
    """Return (query_id, kind, slice): every slice that each query belongs to."""
    rows = frame(queries)
    words = pl.col("text").str.count_matches(r"\S+")
    bucket = pl.lit(LONGEST)
    for most, name in reversed(LENGTHS):
        bucket = pl.when(words <= most).then(pl.lit(name)).otherwise(bucket)
    parts = [rows.select("query_id", kind=pl.lit("length"), slice=bucket)]
    if "tags" in rows.columns:
        tagged = rows.select("query_id", kind=pl.lit("tag"), slice=pl.col("tags").cast(_TAGS))
        parts.insert(0, tagged.explode("slice").drop_nulls("slice").unique(maintain_order=True))
    return pl.concat(parts)


def worst_slice(
    sliced: pa.Table, measure: str, query_type: str, stage: str
) -> dict[str, object] | None:
    """Return the row of `slices` with the lowest mean; None if all are below MIN_SLICE queries."""
    rows = (
        frame(sliced)
        .filter(measure=measure, query_type=query_type, stage=stage)
        .filter(pl.col("queries") >= MIN_SLICE)
        .sort("mean", "kind", "slice")
    )
    return rows.row(0, named=True) if rows.height else None


_TAGS: Final = pl.List(pl.String)
_QUERIES: Final = pl.len().cast(pl.Int64).alias("queries")
_MEAN: Final = pl.col("value").mean().alias("mean")
SUMMARY: Final = pa.schema(
    [
        pa.field("query_type", pa.string()),
        pa.field("stage", pa.string()),
        pa.field("measure", pa.string()),
        pa.field("queries", pa.int64()),
        pa.field("mean", pa.float64()),
    ]
)
SLICES: Final = pa.schema([pa.field("kind", pa.string()), pa.field("slice", pa.string()), *SUMMARY])
