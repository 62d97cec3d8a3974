"""Sources in one line, as tests write them, and what came of their rows."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from configs.source import Source
from reranking.sources.rows import Reject, Row


def source(
    form: str,
    path: str | None = None,
    split: str | None = None,
    name: str | None = None,
    columns: Mapping[str, str] | None = None,
    **keys: Any,
) -> Source:
    """The source a config would hold.

    Raises pydantic's ValidationError for what a config refuses.
    """
    values = {"format": form, "path": path, "split": split, "name": name, **keys}
    return Source.model_validate({**values, "columns": dict(columns or {})})


def values(rows: Iterable[Row | Reject]) -> list[dict[str, object]]:
    found = list(rows)
    assert [row for row in found if isinstance(row, Reject)] == []
    return [row.values for row in found if isinstance(row, Row)]


def reasons(rows: Iterable[Row | Reject]) -> dict[int, str]:
    return {row.number: row.reason for row in rows if isinstance(row, Reject)}


def write(path: Path, data: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = data.encode() if isinstance(data, str) else data
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def jsonl(path: Path, rows: Iterable[object]) -> str:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def delimited(path: Path, rows: list[dict[str, str]], delimiter: str) -> str:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def lance(path: Path, rows: list[dict[str, object]]) -> str:
    import lancedb

    lancedb.connect(path.parent).create_table(path.name, pa.Table.from_pylist(rows))
    return str(path)


def table_of(form: str, folder: Path, rows: list[dict[str, str]]) -> Source:
    match form:
        case "jsonl":
            path = jsonl(folder / "rows.jsonl", rows)
        case "jsonl.gz":
            form, path = "jsonl", jsonl(folder / "rows.jsonl.gz", rows)
        case "csv":
            path = delimited(folder / "rows.csv", rows, ",")
        case "tsv":
            form, path = "csv", delimited(folder / "rows.tsv", rows, "\t")
        case "parquet":
            parquet.write_table(pa.Table.from_pylist(rows), path := str(folder / "rows.parquet"))
        case _:
            path = lance(folder / "rows", list(map(dict, rows)))
    return source(form, path, quoting="csv")
