"""What a document is: from a source row to a row of the documents table. Pure.

Columns that are not ours are the user's. A user's column has one type: bool, int64, float64 or
text (`corpus.columns` decides); nested values are stored
as JSON, dates as ISO text, bytes as hex digits, NaN and infinities as null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time
from decimal import Decimal
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from reranking.errors import InputError
from reranking.fingerprints import row_hash, text_hash
from reranking.sources.rows import Reject, Row, cut

_OURS = ("title", "parent_id", "start", "end")
_RESERVED = {"row_hash", "text_hash"}  # of a table that rescore wrote: they are computed anew
_LANCE_NAMES = {
    "_distance",
    "_score",
    "_relevance_score",
    "query_index",
    "_rowid",
    "_rowaddr",
    "_rowoffset",
    "_row_created_at_version",
    "_row_last_updated_at_version",
}
_INT32 = 2**31
_NOT_OWN = {"doc_id", "vector", "text", *_OURS, *_RESERVED}


class Types(Protocol):
    """What types the source's own columns have, see `corpus.columns`."""

    def converted(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]: ...
    def array(self, name: str, values: Sequence[Any]) -> pa.Array: ...


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
        return Reject(self.number, self.doc_id, reason, cut(self.text))


def own_columns(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a source row that are the user's own, and no part of ours."""
    return {k: v for k, v in values.items() if k not in _NOT_OWN}


def document_of(
    row: Row, settings: Mapping[str, Any], encoder: object | None, types: Types | None = None
) -> Document | Reject:
    """Make the row a document, or say why it cannot be one.

    `settings` are the ingest settings that a row's hash covers.
    """
    values = dict(row.values)
    doc_id, vector = str(values.pop("doc_id")), values.pop("vector", None)
    text = fill(str(settings["template"]), values)
    fault = _fault(text, values, encoder is None and vector is None)
    if fault is not None:
        return Reject(row.number, doc_id, fault, cut(text or None))
    values.pop("text")
    ours = {name: values.pop(name, None) for name in _OURS}
    extra = {k: plain(v) for k, v in values.items() if k not in _RESERVED}
    if types is not None:
        extra, misfit = types.converted(extra)
        if misfit is not None:
            return Reject(row.number, doc_id, misfit, cut(text))
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


def _fault(text: str, values: Mapping[str, Any], lacks_vector: bool) -> str | None:
    """What keeps the row from being a document, or None."""
    if not text:
        return "empty text"
    if "\0" in text:
        return "the text contains a NUL character"
    if lacks_vector:
        return "no vector, and no encoder to make one"
    for name in ("start", "end"):
        if _offset(values.get(name)) is None and values.get(name) not in (None, ""):
            return f"{name} is a chunk's offset, a 32-bit integer; {_RENAME.format('span')}"
    return next((f for f in map(_name_fault, values) if f is not None), None)


_RENAME = "name the column otherwise, as in source.columns: {{{}: THEIRS}}"


@lru_cache(maxsize=4096)
def _name_fault(name: str) -> str | None:
    """Why a table cannot have a user's column of that name, or None."""
    if name in _LANCE_NAMES:
        return f"the column {name!r} has a name that LanceDB uses itself; {_RENAME.format('mine')}"
    if name in ("", "*") or any(c in name for c in ".`\0"):
        return f"the column {name!r} has a name that Lance cannot store; {_RENAME.format('mine')}"
    return None


def _offset(value: Any) -> int | None:
    """A chunk's offset, from an integer or, as in CSV, its digits."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        value = int(value[:11])
    return value if type(value) is int and -_INT32 <= value < _INT32 else None


def fill(template: str, values: Mapping[str, Any]) -> str:
    """The template with its `{column}` marks filled, a missing column being empty; stripped.

    Only plain names are replaced: nothing in a template or a text is evaluated.
    """
    if template == "{text}":
        return str(values.get("text") or "").strip()
    parts: list[str] = []
    at = 0
    while (mark := template.find("{", at)) >= 0 and (end := template.find("}", mark)) >= 0:
        value = values.get(template[mark + 1 : end])
        parts += [template[at:mark], "" if value is None else str(value)]
        at = end + 1
    return "".join([*parts, template[at:]]).strip()


def table_of(documents: Sequence[Document], vectors: NDArray[np.float32], types: Types) -> pa.Table:
    """Make the documents with their vectors ((n, d) float32) as rows of the documents table."""
    if not np.isfinite(vectors).all():
        bad = documents[int(np.argmin(np.isfinite(vectors).all(axis=1)))].doc_id
        raise InputError(f"the encoder gave a vector that is not finite for document {bad!r}")
    columns: dict[str, pa.Array] = {
        "doc_id": pa.array([d.doc_id for d in documents], pa.string()),
        "title": pa.array([text_of(d.ours.get("title")) for d in documents], pa.string()),
        "text": pa.array([d.text for d in documents], pa.string()),
        "row_hash": pa.array([d.row_hash for d in documents], pa.binary(16)),
        "text_hash": pa.array([d.text_hash for d in documents], pa.binary(16)),
    }
    parents = [text_of(d.ours.get("parent_id")) for d in documents]
    columns["parent_id"] = pa.array(parents, pa.string())
    for name in ("start", "end"):
        columns[name] = pa.array([_offset(d.ours.get(name)) for d in documents], pa.int32())
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).ravel())
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    for name in dict.fromkeys(n for d in documents for n, v in d.extra.items() if v is not None):
        columns[name] = types.array(name, [d.extra.get(name) for d in documents])
    return pa.table(columns)


def column_fields(known: pa.Schema, data: pa.Table) -> pa.Table:
    """`data` with the columns of the stored table and their types, null where it lacks one.

    A user's column whose values no longer fit the stored type is an error that names it.
    """
    arrays = []
    for column in known:
        if column.name not in data.column_names:
            arrays.append(pa.nulls(data.num_rows, column.type))
            continue
        arrays.append(_as_stored(column, data.column(column.name)))
    return pa.table(arrays, schema=known)


def _as_stored(column: pa.Field, values: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """The values as the type that the table has; raises InputError where that loses something."""
    given, wanted = values.type, column.type
    if values.null_count == len(values):
        return pa.nulls(len(values), wanted)
    if pa.types.is_string(wanted) and given != wanted:
        return pa.array([text_of(v) for v in values.to_pylist()], pa.string())
    reason = "not all of them can be converted without loss"
    if given == wanted or pa.types.is_nested(wanted) or (_is_number(given) and _is_number(wanted)):
        try:
            return values.cast(wanted)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            reason = str(error)
    raise InputError(
        f"column {column.name!r} is {wanted} in the table and {given} in the source: {reason}. "
        "Rename it with source.columns, or use another documents.table."
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def plain(value: Any) -> Any:
    """Make a user's value something a column can hold: a bool, a number or a text."""
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    return json.dumps(value, ensure_ascii=False, default=str)


def is_float(value: float) -> bool:
    """Return whether float64 holds the number exactly."""
    try:
        return float(value) == value
    except OverflowError:
        return False


def text_of(value: Any) -> str | None:
    """Write a value of a column that holds text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None else str(value)
