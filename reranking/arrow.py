"""Arrow in, polars inside, Arrow out: the one place that says so to the type checker."""

from __future__ import annotations

import polars as pl
import pyarrow as pa


def frame(table: pa.Table | pa.RecordBatch) -> pl.DataFrame:
    """The table as a polars DataFrame, without a copy where polars can."""
    converted = pl.from_arrow(table)
    assert isinstance(converted, pl.DataFrame)
    return converted
