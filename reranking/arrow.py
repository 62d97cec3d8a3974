"""Arrow in, polars inside, Arrow out: the one place that says so to the type checker."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from reranking.errors import InputError


def frame(
    table: pa.Table | pa.RecordBatch, needed: Sequence[str] = (), what: str = "the table"
) -> pl.DataFrame:
    """Return the table as a polars DataFrame, without a copy if polars can.

    Raises InputError, which names `what`, if the table lacks one of the `needed` columns.
    """
    names = table.schema.names
    missing = [name for name in needed if name not in names]
    if missing:
        raise InputError(f"{what}: the columns {missing} are missing, the columns are {names}")
    converted = pl.from_arrow(table)
    assert isinstance(converted, pl.DataFrame)
    return converted
