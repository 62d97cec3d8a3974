"""SQL for filters that `lancedb.expr` cannot express: on fields inside structs. Pure.

The only place where SQL is written. It is put together of typed parts: identifiers in backticks,
which are doubled inside (as DataFusion reads them), literals by LanceDB's own `lit(x).to_sql()`.
A column's own name has no dot: Lance stores no such column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
from lancedb.expr import lit

_SIGNS: Final = {"eq": "=", "ne": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_UNITS: Final = {"s": "Second", "ms": "Millisecond", "us": "Microsecond", "ns": "Nanosecond"}
_LONGS: Final = range(1 - 2**63, 2**63)
_LARGEST: Final = {16: 65504.0, 32: 3.4028234663852886e38}


def condition_sql(where: Mapping[str, tuple[Any, pa.DataType | None]]) -> str:
    """Write the condition that all fields meet theirs.

    A condition is a value (equal), a list of values (one of), or operators with a value each; with
    it stands the field's type.
    """
    parts = []
    for name, (condition, kind) in where.items():
        if isinstance(condition, Mapping):
            parts += [
                f"({_side(name, [value], kind)} {_SIGNS[sign]} {_literal(value, kind)})"
                for sign, value in condition.items()
            ]
        elif isinstance(condition, list | tuple):
            parts.append(one_of_sql(name, condition, kind))
        else:
            parts.append(f"({_side(name, [condition], kind)} = {_literal(condition, kind)})")
    return " AND ".join(parts)


def one_of_sql(name: str, values: Sequence[Any], kind: pa.DataType | None = None) -> str:
    """Write the condition that a field is one of the values."""
    listed = ", ".join(_literal(value, kind) for value in values)
    return f"({_side(name, values, kind)} IN ({listed}))"


def _side(name: str, values: Sequence[Any], kind: pa.DataType | None) -> str:
    """Write the field, as a wider type where its own does not hold all the numbers.

    LanceDB refuses to compare an int64 with 1.5 in SQL, and an int8 with 300.
    """
    field = field_sql(name)
    if kind is None or not all(type(value) in (int, float) for value in values):
        return field
    whole = pa.types.is_integer(kind)
    if (whole or pa.types.is_decimal(kind)) and any(type(value) is float for value in values):
        return _as_type(field, "Float64")
    if whole:
        least = 0 if pa.types.is_unsigned_integer(kind) else -(2 ** (kind.bit_width - 1))
        beyond = [v for v in values if not least <= v < least + 2**kind.bit_width]
        return _as_type(field, "Decimal128(20, 0)") if beyond else field
    if pa.types.is_decimal128(kind) and any(
        abs(v) >= 10 ** (kind.precision - kind.scale) for v in values
    ):
        return _as_type(field, f"Decimal128(38, {kind.scale})")
    if pa.types.is_floating(kind) and kind.bit_width < 64:
        most = _LARGEST[kind.bit_width]
        return _as_type(field, "Float64") if any(abs(v) > most for v in values) else field
    return field


def _as_type(sql: str, name: str) -> str:
    """Write a cast to a type by the name that DataFusion calls it."""
    return f"arrow_cast({sql}, {lit(name).to_sql()})"


def _literal(value: Any, kind: pa.DataType | None) -> str:
    """A value as SQL; a date or time, which is given as text, in its field's type."""
    if type(value) is int and value not in _LONGS:  # beyond what `lit` and SQL's numbers hold
        wide = "Int64" if value < 0 else "UInt64"
        return _as_type(str(lit(str(value)).to_sql()), wide)
    text = str(lit(value).to_sql())
    if kind is None or not isinstance(value, str) or not pa.types.is_temporal(kind):
        return text
    return _as_type(text, _name_of(kind))


def _name_of(kind: pa.DataType) -> str:
    """A type of dates or times as DataFusion calls it."""
    if pa.types.is_date(kind):
        return "Date32" if pa.types.is_date32(kind) else "Date64"
    unit = _UNITS[kind.unit]
    if pa.types.is_timestamp(kind):
        return f"Timestamp({unit}, " + ("None)" if kind.tz is None else f'Some("{kind.tz}"))')
    if pa.types.is_time(kind):
        return f"{'Time32' if pa.types.is_time32(kind) else 'Time64'}({unit})"
    return f"Duration({unit})"


def has_text_sql(name: str) -> str:
    """Write the condition that a text field is neither null nor blank."""
    return f"regexp_like({field_sql(name)}, '\\S')"


def is_null_sql(name: str) -> str:
    """Write the condition that a field is null."""
    return f"{field_sql(name)} IS NULL"


def not_rows_sql(rows: Sequence[int]) -> str:
    """Write the condition that a row is none of those, by their addresses in the table."""
    return f"_rowid NOT IN ({', '.join(str(int(row)) for row in rows)})"


def field_sql(name: str) -> str:
    """Write a field's name as a quoted identifier; dots lead into structs (`meta.body`)."""
    return ".".join(f"`{part.replace('`', '``')}`" for part in name.split("."))
