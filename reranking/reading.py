"""Reads of a LanceDB table in batches that hold, however long its texts are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from lancedb.expr import Expr

# LanceDB reads ahead up to 2 GiB of a table, of more fragments at once the more cores there are: a
# pass over a large table would take as much memory. These two take no time that could be measured.
for _name, _value in {
    "LANCE_DEFAULT_IO_BUFFER_SIZE": 64 << 20,
    "LANCE_DEFAULT_FRAGMENT_READAHEAD": 2,
}.items():
    os.environ.setdefault(_name, str(_value))


def query(table: Any, where: Expr | str | None, columns: list[str] | None) -> Any:
    """Ask for the matching rows, with these columns or all of them."""
    asked = table.search() if where is None else table.search().where(where)
    return asked if columns is None else asked.select(columns)


def batches(
    table: Any,
    where: Expr | str | None,
    columns: list[str] | None,
    *,
    row_ids: bool,
    rows: int,
) -> Iterator[pa.RecordBatch]:
    """Yield the matching rows, at most so many at a time.

    Rows whose texts are together more than one Arrow array can hold are read on in smaller parts.
    """
    done = 0
    while True:
        asked = query(table, where, columns).with_row_id(row_ids)
        try:
            for batch in (asked.offset(done) if done else asked).to_batches(rows):
                done += batch.num_rows
                yield batch
            return
        except RuntimeError as error:
            if rows == 1 or not _is_too_much(error):
                raise
        rows = max(rows // 8, 1)


def taken(table: Any, row_ids: list[int], columns: list[str], *, rows: int) -> Iterator[pa.Table]:
    """Yield the rows with these `_rowid`s, at most so many at a time, with that column as well."""
    done = 0
    while done < len(row_ids):
        part = row_ids[done : done + rows]
        try:
            read = table.take_row_ids(part).select(columns).with_row_id().to_arrow()
        except RuntimeError as error:
            if rows == 1 or not _is_too_much(error):
                raise
            rows = max(rows // 8, 1)
        else:
            done += len(part)
            yield read


def _is_too_much(error: BaseException) -> bool:
    """Whether the rows that were read at once hold more text than one Arrow array, 2 GiB."""
    return str(error).startswith("lance error: LanceError(Arrow): Offset overflow error")
