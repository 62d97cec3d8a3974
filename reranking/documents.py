"""What a document is: from a source row to a row of the documents table. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from reranking.errors import InputError
from reranking.fingerprints import row_hash, text_hash
from reranking.schemas import DOCUMENTS
from reranking.sources.rows import Reject, Row

_OURS = ("title", "parent_id", "start", "end")
_RESERVED = {"row_hash", "text_hash"}


@dataclass(frozen=True)
class Document:
    """A good source row: our columns, the user's own ones in `extra`."""

    number: int
    doc_id: str
    text: str
    row_hash: bytes
    text_hash: bytes
    ours: Mapping[str, Any] = field(default_factory=dict)
    vector: Sequence[float] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def rejected(self, reason: str) -> Reject:
        """The same row as a reject."""
        return Reject(self.number, self.doc_id, reason, self.text[:2000])


def document_of(row: Row, settings: Mapping[str, Any], encoder: object | None) -> Document | Reject:
    """The row as a document, or why it cannot be one."""
    values = dict(row.values)
    doc_id, vector = str(values.pop("doc_id")), values.pop("vector", None)
    text = fill(str(settings["template"]), values)
    if not text:
        return Reject(row.number, doc_id, "empty text", None)
    if encoder is None and vector is None:
        return Reject(row.number, doc_id, "no vector, and no encoder to make one", text[:2000])
    values.pop("text")
    ours = {name: values.pop(name, None) for name in _OURS}
    extra = {k: _plain(v) for k, v in values.items() if k not in _RESERVED}
    hashed = {**row.values, "vector": None if encoder else vector}
    return Document(
        number=row.number,
        doc_id=doc_id,
        text=text,
        row_hash=row_hash(hashed, settings),
        text_hash=text_hash(text),
        ours=ours,
        vector=None if encoder or not isinstance(vector, list | tuple) else vector,
        extra=extra,
    )


def fill(template: str, values: Mapping[str, Any]) -> str:
    """The template with its `{column}` marks filled, a missing column being empty; stripped.

    Only plain names are replaced: nothing in a template or a text is evaluated.
    """
    text = template
    if template == "{text}":
        return str(values.get("text") or "").strip()
    parts: list[str] = []
    while True:
        before, mark, rest = text.partition("{")
        name, closing, after = rest.partition("}")
        parts.append(before)
        if not mark or not closing:
            parts.append(mark + rest)
            return "".join(parts).strip()
        value = values.get(name)
        parts.append("" if value is None else str(value))
        text = after


def table_of(documents: Sequence[Document], vectors: NDArray[np.float32]) -> pa.Table:
    """The documents with their vectors ((n, d) float32) as rows of the documents table."""
    if not np.isfinite(vectors).all():
        bad = documents[int(np.argmin(np.isfinite(vectors).all(axis=1)))].doc_id
        raise InputError(f"the encoder gave a vector that is not finite for document {bad!r}")
    columns: dict[str, pa.Array] = {
        "doc_id": pa.array([d.doc_id for d in documents], pa.string()),
        "title": _column([d.ours.get("title") for d in documents], pa.string()),
        "text": pa.array([d.text for d in documents], pa.string()),
        "row_hash": pa.array([d.row_hash for d in documents], pa.binary(16)),
        "text_hash": pa.array([d.text_hash for d in documents], pa.binary(16)),
    }
    for name in _OURS[1:]:
        columns[name] = _column([d.ours.get(name) for d in documents], DOCUMENTS.field(name).type)
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    for name in dict.fromkeys(n for d in documents for n in d.extra):
        columns[name] = _inferred([d.extra.get(name) for d in documents])
    return pa.table(columns)


def column_fields(table: Any, data: pa.Table) -> pa.Table:
    """`data` with the table's column types; columns the table lacks are added to it as null.

    A user's column whose values no longer fit the stored type is an error that names it.
    """
    known = table.schema
    new = [f for f in data.schema if f.name not in known.names]
    if new:
        table.add_columns([f.with_nullable(True) for f in new])
        known = table.schema
    arrays = []
    for column in known:
        if column.name not in data.column_names:
            arrays.append(pa.nulls(data.num_rows, column.type))
            continue
        values = data.column(column.name)
        try:
            arrays.append(values.cast(column.type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InputError(
                f"column {column.name!r} is {column.type} in the table and {values.type} in the "
                f"source: {error}. Rename it with source.columns, or use another documents.table."
            ) from error
    return pa.table(arrays, schema=known)


def _plain(value: Any) -> Any:
    """A user's value as something a column can hold: nested values become JSON text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _inferred(values: list[Any]) -> pa.Array:
    """The values as the narrowest of bool, int64, float64 and string that holds them all."""
    kinds = {type(v) for v in values if v is not None}
    if kinds <= {bool}:
        return pa.array(values, pa.bool_()) if kinds else pa.array(values, pa.string())
    if kinds <= {int} and all(v is None or abs(v) < 2**63 for v in values):
        return pa.array(values, pa.int64())
    if kinds <= {int, float}:
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    return pa.array([None if v is None else str(v) for v in values], pa.string())


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """The values as the type; one that does not fit becomes null (titles and offsets only)."""
    if pa.types.is_string(kind):
        return pa.array([None if v is None else str(v) for v in values], kind)
    return pa.array([v if isinstance(v, int) else None for v in values], kind)
