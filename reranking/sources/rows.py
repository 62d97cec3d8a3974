"""What a reader yields: a row with its values, or a reject with its reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

RAW_BYTES = 2048
"""How much of a rejected row is kept."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a source, counted from 1; inside the readers `raw` is its line, if it has one."""

    number: int
    values: dict[str, object]
    raw: bytes | str | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """A row that could not be used; `raw` is its beginning, at most 2 KB of UTF-8."""

    number: int
    id: str | None
    reason: str
    raw: str | None


class Fault(ValueError):
    """What is wrong with one row; never leaves the readers."""


def cut(raw: bytes | str | None) -> str | None:
    """The beginning of `raw` as text that can be stored: at most 2 KB, what is not text as `?`."""
    if raw is None:
        return None
    data = raw[:RAW_BYTES].encode("utf-8", "replace") if isinstance(raw, str) else raw
    text = data[:RAW_BYTES].decode("utf-8", "replace").encode("utf-8")
    return text[:RAW_BYTES].decode("utf-8", "ignore")


def rejected(row: Row, reason: str, row_id: str | None = None) -> Reject:
    """The reject of `row`, with its line or else its values as JSON."""
    raw = _as_json(row.values) if row.raw is None else row.raw
    return Reject(row.number, row_id, reason, cut(raw))


def _as_json(values: Mapping[str, object]) -> str:
    try:
        return json.dumps(values, ensure_ascii=False, default=str)
    except (ValueError, TypeError, RecursionError):
        return repr(values)
