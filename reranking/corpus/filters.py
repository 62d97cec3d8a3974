"""From the config's `where` to a condition that LanceDB filters by. Pure."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
from lancedb.expr import Expr, col, lit

from reranking.corpus.fields import type_of
from reranking.corpus.sql import condition_sql
from reranking.errors import ConfigError

_OPERATORS = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


def where_condition(where: Mapping[str, Any], schema: pa.Schema) -> Expr | str | None:
    """Make the condition that all columns meet theirs; None if there is no condition.

    A condition is a value (equal), a list of values (one of), or operators with a value each. A
    literal has its column's type: LanceDB would compare a float32 column with a float64 literal.
    Fields inside structs (`meta.lang`) can only be named in SQL: the answer is then text. Raises
    ConfigError for a value or an operator that no filter can hold.
    """
    with _told():
        if any("." in column for column in where):
            return where_sql(where, schema)
        return _expression(typed_where(where, schema))


def where_sql(where: Mapping[str, Any], schema: pa.Schema) -> str:
    """Write the same condition as SQL, to be put beside others."""
    with _told():
        typed = typed_where(where, schema)
        return condition_sql({c: (v, type_of(schema, c)) for c, v in typed.items()})


@contextmanager
def _told() -> Iterator[None]:
    """Say of what no filter can hold that it stands in `search.where`."""
    try:
        yield
    except (TypeError, ValueError, OverflowError, KeyError) as error:
        raise ConfigError(f"search.where: {error} cannot be used in a filter") from error


def typed_where(where: Mapping[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """Return the conditions with each number as its column's type holds it."""
    typed: dict[str, Any] = {}
    for column, condition in where.items():
        kind = type_of(schema, column)
        if isinstance(condition, Mapping):
            typed[column] = {name: _as_kind(v, kind) for name, v in condition.items()}
        elif isinstance(condition, list | tuple):
            typed[column] = [_as_kind(v, kind) for v in condition]
        else:
            typed[column] = _as_kind(condition, kind)
    return typed


def _as_kind(value: Any, kind: pa.DataType | None) -> Any:
    if kind is None or isinstance(value, bool) or not isinstance(value, int | float):
        return value
    for narrow, make in ((pa.float16(), np.float16), (pa.float32(), np.float32)):
        if kind == narrow:
            with np.errstate(over="ignore"):
                held = float(make(value))
            return held if math.isfinite(held) else value  # beyond the type: compared as it is
    return value


def _expression(where: Mapping[str, Any]) -> Expr | None:
    parts: list[Expr] = []
    for column, condition in where.items():
        if isinstance(condition, Mapping):
            parts += [_OPERATORS[name](col(column), lit(v)) for name, v in condition.items()]
        elif isinstance(condition, list | tuple):
            parts.append(col(column).isin(list(condition)))
        else:
            parts.append(col(column) == lit(condition))
    return reduce(operator.and_, parts) if parts else None


def fault_of(column: str, kind: pa.DataType | None, condition: Any) -> str | None:
    """Why the condition cannot be asked of a column of that type, or None."""
    wanted = None if kind is None else _comparable(kind)
    if wanted is None and kind is not None and pa.types.is_struct(kind) and kind.num_fields:
        fields = [f"{column}.{field.name}" for field in kind]
        return f"column {column!r} is {kind}, which cannot be filtered; its fields are {fields}"
    if wanted is None:
        return f"column {column!r} is {kind}, which cannot be filtered"
    if isinstance(condition, Mapping):
        condition = list(condition.values())
    values = condition if isinstance(condition, list | tuple) else [condition]
    bad = [v for v in values if not isinstance(v, wanted) or (type(v) is bool) != (wanted is bool)]
    return f"column {column!r} is {kind}, not comparable with {bad[0]!r}" if bad else None


def _comparable(kind: pa.DataType) -> Any:
    """The Python types of values that a column of the type can be compared with."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_boolean(kind):
        return bool
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return int | float
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_temporal(kind):
        return str
    return None
