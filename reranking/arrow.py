"""Arrow in, polars inside, Arrow out: the one place that says so to the type checker.

And how much text goes into one Arrow array: its 32-bit offsets end at 2 GiB.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from reranking.errors import InputError

BATCH_BYTES = 256 << 20


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


def lacks_vectors(data: pa.Table) -> bool:
    """Whether a row has no vector of some encoder, which LanceDB takes for a mistake."""
    vectors = [c for c in data.columns if pa.types.is_fixed_size_list(c.type)]
    return any(column.null_count for column in vectors)


def spans(sizes: Iterable[int], limit: int | None = None) -> Iterator[tuple[int, int]]:
    """Cut rows of these sizes, in their order, into spans (start, end) of at most `limit` bytes.

    A row beyond the limit is a span of its own; without a limit it is BATCH_BYTES.
    """
    most = BATCH_BYTES if limit is None else limit
    start = end = held = 0
    for end, size in enumerate(sizes, start=1):
        if end - 1 > start and held + size > most:
            yield start, end - 1
            start, held = end - 1, 0
        held += size
    if end > start:
        yield start, end


def row_bytes(rows: pl.DataFrame) -> list[int]:
    """Count the bytes of each row's texts, those inside lists and structs too."""
    sizes = [_bytes(pl.col(name), kind) for name, kind in rows.schema.items()]
    counted = rows.select(pl.sum_horizontal(pl.lit(0, pl.Int64), *sizes).alias("bytes"))
    return [int(count) for count in counted["bytes"]]


def _bytes(values: pl.Expr, kind: Any) -> pl.Expr:
    if isinstance(kind, pl.String):
        count = values.str.len_bytes()
    elif isinstance(kind, pl.Binary):
        count = values.bin.size()
    elif isinstance(kind, pl.List):
        count = values.list.eval(_bytes(pl.element(), kind.inner)).list.sum()
    elif isinstance(kind, pl.Array):
        count = values.arr.to_list().list.eval(_bytes(pl.element(), kind.inner)).list.sum()
    elif isinstance(kind, pl.Struct):
        fields = [_bytes(values.struct.field(f.name), f.dtype) for f in kind.fields]
        count = pl.sum_horizontal(*fields)
    else:
        count = values.is_not_null().cast(pl.Int64) * 8
    return count.cast(pl.Int64).fill_null(0)
