"""Parquet files and Lance tables, batch by batch."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from reranking.errors import InputError, MissingResource
from reranking.sources.delimited import Check
from reranking.sources.files import folder, is_folder, names_in, regular_file
from reranking.sources.rows import Reject, Row

BATCH = 1024
_READ_ERRORS = (OSError, ValueError, RuntimeError)  # pa.ArrowInvalid is a ValueError


def parquet_rows(path: str, check: Check) -> Iterator[Row | Reject]:
    """The rows of a Parquet file, or of all `*.parquet` under a folder in the order of names."""
    number = 0
    for file in _parquet_files(path):
        for row in batch_rows(_parquet_batches(file, check), number):
            number = row.number
            yield row


def _parquet_files(path: str) -> list[Path]:
    if not is_folder(path):
        return [regular_file(path)]
    found = [
        Path(root, name)
        for root, _, names in os.walk(path)
        for name in names
        if name.endswith(".parquet") and not name.startswith((".", "_"))
    ]
    if not found:
        raise InputError(f"{path} is a folder without a .parquet file: {names_in(Path(path))[:10]}")
    return sorted(found)


def _parquet_batches(file: Path, check: Check) -> Iterator[pa.RecordBatch]:
    from pyarrow import parquet

    if os.path.getsize(regular_file(file)) == 0:
        return
    rows = 0
    try:
        # a buffer instead of pre-buffering: memory holds pages, not a whole row group
        with parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as opened:
            _check_header(str(file), opened.schema_arrow.names, check)
            for batch in opened.iter_batches(BATCH):
                yield batch
                rows += batch.num_rows
    except _READ_ERRORS as error:
        raise InputError(f"{file}: broken Parquet after {rows} rows were read: {error}") from error


def _check_header(path: str, names: list[str], check: Check) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path} has the columns {twice} more than once")
    check(path, names)


def lance_rows(path: str, check: Check) -> Iterator[Row | Reject]:
    """The rows of a LanceDB table at its current version; `path` is DATABASE/TABLE."""
    reader = _lance_reader(path)
    _check_header(path, reader.schema.names, check)
    yield from batch_rows(_lance_batches(path, reader), 0)


def _lance_reader(path: str) -> Any:  # noqa: ANN401 - a pa.RecordBatchReader, which has no types
    import lancedb

    database, _, name = path.rstrip("/").removesuffix(".lance").rpartition("/")
    if not name or not database:
        raise InputError(f"{path!r} names no Lance table: expected DATABASE_FOLDER/TABLE")
    if "://" not in database:
        folder(database)  # connect() would create it
    try:
        return lancedb.connect(database).open_table(name).search().to_batches(BATCH)
    except _READ_ERRORS as error:
        there = [n.removesuffix(".lance") for n in names_in(Path(database)) if n.endswith(".lance")]
        raise MissingResource(
            f"{path}: no readable Lance table {name!r} in {database}; it has {there[:10]}: {error}"
        ) from error


def _lance_batches(path: str, reader: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    rows = 0
    try:
        for batch in reader:
            yield batch
            rows += batch.num_rows
    except _READ_ERRORS as error:
        raise InputError(f"{path}: broken table after {rows} rows were read: {error}") from error


def batch_rows(batches: Iterable[pa.RecordBatch], before: int) -> Iterator[Row | Reject]:
    """The rows of the batches as Python values, counted on from `before`."""
    for batch in batches:
        plain = _microseconds(batch)
        try:
            values = plain.to_pylist()
        except (ValueError, OverflowError, pa.ArrowException):
            yield from _one_by_one(plain, before)
        else:
            for position, row in enumerate(values, start=before + 1):
                yield Row(position, row)
        before += batch.num_rows


def _one_by_one(batch: pa.RecordBatch, before: int) -> Iterator[Row | Reject]:
    """The rows of a batch in which something has no Python value: invalid UTF-8, a far date."""
    for offset in range(batch.num_rows):
        number = before + offset + 1
        try:
            yield Row(number, batch.slice(offset, 1).to_pylist()[0])
        except (ValueError, OverflowError, pa.ArrowException) as error:
            yield Reject(number, None, f"a value cannot be read: {error}", None)


def _microseconds(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Python's times end at microseconds; without pandas a nanosecond would be an error."""
    for index, field in enumerate(batch.schema):
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
            micro = pa.timestamp("us", field.type.tz)
            column = batch.column(index).cast(micro, safe=False)
            batch = batch.set_column(index, field.name, column)
    return batch
