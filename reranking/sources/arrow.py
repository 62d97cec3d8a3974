"""Parquet files and Lance tables, batch by batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from reranking.errors import InputError, MissingResource, RescoreError
from reranking.sources.files import STDIN, Shard, folder, names_in, open_plain
from reranking.sources.rows import Reject, Row
from reranking.sources.shapes import check_names

Check = Callable[[str, list[str]], None]
"""Raises InputError if a header lacks a column: (path, header)."""

BATCH = 1024
_READ_ERRORS = (OSError, ValueError, RuntimeError)  # pa.ArrowInvalid is a ValueError


def parquet_rows(shard: Shard, check: Check) -> Iterator[Row | Reject]:
    """The rows of a Parquet file."""
    return batch_rows(_parquet_batches(shard, check))


def _parquet_batches(shard: Shard, check: Check) -> Iterator[pa.RecordBatch]:
    from pyarrow import parquet

    rows = 0
    try:
        with open_plain(shard) as handle:
            # Parquet is read from its end, which a pipe has only when it was read whole
            file = pa.BufferReader(handle.read()) if shard.path == STDIN else handle
            if file.seek(0, os.SEEK_END) == 0:
                return
            # a buffer instead of pre-buffering: memory holds pages, not a whole row group
            with parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as opened:
                names = opened.schema_arrow.names
                check_names(str(shard), names)
                check(str(shard), [*names, *shard.values])
                for batch in opened.iter_batches(BATCH):
                    yield batch
                    rows += batch.num_rows
    except _READ_ERRORS as error:
        if isinstance(error, RescoreError):
            raise
        raise InputError(f"{shard}: broken Parquet after {rows} rows were read: {error}") from error


def lance_rows(path: str, check: Check) -> Iterator[Row | Reject]:
    """The rows of a LanceDB table at its current version; `path` is DATABASE/TABLE."""
    reader = _lance_reader(path)
    check_names(path, reader.schema.names)
    check(path, reader.schema.names)
    yield from batch_rows(_lance_batches(path, reader))


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


def batch_rows(batches: Iterable[pa.RecordBatch]) -> Iterator[Row | Reject]:
    """The rows of the batches as Python values, counted from 1."""
    before = 0
    for batch in batches:
        plain = _readable(batch)
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


def _readable(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch in types that have Python values, at any depth.

    Python's times end at microseconds; without pandas a nanosecond would be an error. A time of a
    zone that no database knows, as `tzutc()`, keeps its instant, in UTC.
    """
    for index, field in enumerate(batch.schema):
        wanted = _readable_type(field.type)
        if wanted != field.type:
            column = batch.column(index).cast(wanted, safe=False)
            batch = batch.set_column(index, field.name, column)
    return batch


def _readable_type(given: pa.DataType) -> pa.DataType:
    types = pa.types
    if types.is_timestamp(given):
        zone = given.tz if given.tz is None or _known_zone(given.tz) else "UTC"
        return pa.timestamp(_unit(given), zone)
    if types.is_time64(given):
        return pa.time64("us")
    if types.is_duration(given):
        return pa.duration(_unit(given))
    if types.is_dictionary(given):
        value = _readable_type(given.value_type)
        return given if value == given.value_type else value
    if types.is_struct(given):
        fields = [given.field(n) for n in range(given.num_fields)]
        return pa.struct([field.with_type(_readable_type(field.type)) for field in fields])
    if types.is_map(given):
        return pa.map_(_readable_type(given.key_type), _readable_type(given.item_type))
    if types.is_fixed_size_list(given):
        return pa.list_(_readable_type(given.value_type), given.list_size)
    if types.is_list(given):
        return pa.list_(given.value_field.with_type(_readable_type(given.value_type)))
    if types.is_large_list(given):
        return pa.large_list(given.value_field.with_type(_readable_type(given.value_type)))
    return given


def _unit(given: pa.DataType) -> str:
    return "us" if given.unit == "ns" else str(given.unit)


@lru_cache(maxsize=256)
def _known_zone(name: str) -> bool:
    try:
        pa.scalar(0, pa.timestamp("s", name)).as_py()
    except Exception:  # pytz and zoneinfo raise errors of their own
        return False
    return True
