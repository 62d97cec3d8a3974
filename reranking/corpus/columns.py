"""The types of the source's own columns, decided over the whole source. Pure.

A column is bool, int64, float64 or text, whichever is the narrowest that holds all its values
without loss, or what `documents.types` says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from reranking.corpus.documents import is_float, own_columns, plain, text_of
from reranking.errors import InputError
from reranking.sources.rows import Row

KINDS: Final[dict[str, pa.DataType]] = {
    "bool": pa.bool_(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "text": pa.string(),
}
_LONG = range(-(2**63), 2**63)


@dataclass
class _Seen:
    """Which kinds of values a column has, and the row that brought the first of each."""

    bools: int = 0
    longs: int = 0
    floats: int = 0
    texts: int = 0
    fractions: int = 0  # floats that no int64 is equal to
    beyond_float: int = 0  # integers that float64 does not hold exactly

    def add(self, number: int, value: Any) -> None:
        if isinstance(value, bool):
            self.bools = self.bools or number
        elif isinstance(value, int) and value in _LONG:
            self.longs = self.longs or number
            if not self.beyond_float and not is_float(value):
                self.beyond_float = number
        elif isinstance(value, float) or (isinstance(value, int) and is_float(value)):
            self.floats = self.floats or number
            if not self.fractions and not (value == int(value) and int(value) in _LONG):
                self.fractions = number
        else:
            self.texts = self.texts or number

    @property
    def kind(self) -> str:
        """The narrowest kind that holds all values exactly."""
        if self.texts or (self.bools and (self.longs or self.floats)):
            return "text"
        if self.bools:
            return "bool"
        if self.floats:
            return "text" if self.beyond_float else "float64"
        return "int64"

    def misfit(self, stored: pa.DataType) -> int:
        """The first row whose value a stored column of the type cannot hold; 0 if there is none."""
        if pa.types.is_boolean(stored):
            return _first(self.longs, self.floats, self.texts)
        if pa.types.is_integer(stored):
            return _first(self.bools, self.texts, self.fractions)
        if pa.types.is_floating(stored):
            return _first(self.bools, self.texts, self.beyond_float)
        return 0


def _first(*rows: int) -> int:
    return min((row for row in rows if row), default=0)


class ColumnTypes:
    """Sees the rows of a source, then says what type each of its own columns has."""

    def __init__(self, declared: Mapping[str, str] | None = None) -> None:
        self.declared = dict(declared or {})
        self._seen: dict[str, _Seen] = {}
        self._settled: dict[str, str] = {}

    def see(self, row: Row) -> None:
        """Take in the values of one row."""
        for name, given in own_columns(row.values).items():
            value = None if name in self.declared else plain(given)  # NaN is no value either
            if value is not None:
                self._seen.setdefault(name, _Seen()).add(row.number, value)

    def settle(self, stored: pa.Schema | None) -> None:
        """Decide; raises InputError if a column of the stored table cannot hold its values."""
        self._settled = {name: seen.kind for name, seen in self._seen.items()} | self.declared
        if stored is None:
            return
        for name, seen in self._seen.items():
            row = seen.misfit(stored.field(name).type) if name in stored.names else 0
            if row:
                raise InputError(
                    f"column {name!r} is {stored.field(name).type} in the table, which cannot hold "
                    f"its value in row {row} of the source ({seen.kind} holds all values). Nothing "
                    "was written. Rename it with source.columns, or use another documents.table"
                )
        for name, kind in self.declared.items():
            if name in stored.names and stored.field(name).type != KINDS[kind]:
                raise InputError(
                    f"column {name!r} is {stored.field(name).type} in the table and {kind} in "
                    "documents.types. Nothing was written. Leave it out, or use another "
                    "documents.table"
                )

    def converted(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
        """Return the values with declared types taken in, and what cannot be one, if any."""
        result = dict(values)
        for name, kind in self.declared.items():
            value = result.get(name)
            if value is not None:
                try:
                    result[name] = _CONVERT[kind](value)
                except (ValueError, OverflowError):
                    return result, f"{name} is no {kind}, which documents.types says"
        return result, None

    def array(self, name: str, values: Sequence[Any]) -> pa.Array:
        """Make the values an array of the column's type."""
        seen = _Seen()
        for value in values:
            if value is not None:
                seen.add(1, value)
        kind = self._settled.get(name, seen.kind)
        if kind == "text":
            return pa.array([text_of(v) for v in values], pa.string())
        if kind == "float64":
            return pa.array([None if v is None else float(v) for v in values], pa.float64())
        return pa.array(values, KINDS[kind])


def _as_bool(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise ValueError
    return value


def _as_long(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and value != int(value)):
        raise ValueError
    number = int(value)
    if number not in _LONG:
        raise ValueError
    return number


def _as_float(value: Any) -> float:
    if isinstance(value, bool) or (isinstance(value, int) and not is_float(value)):
        raise ValueError
    return float(value)


_CONVERT: Final = {"bool": _as_bool, "int64": _as_long, "float64": _as_float, "text": text_of}
