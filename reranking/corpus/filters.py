"""From the config's `where` to a LanceDB expression; no SQL is built from strings. Pure."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import reduce
from typing import Any

import pyarrow as pa
from lancedb.expr import Expr, col, lit

from reranking.errors import ConfigError

_OPERATORS = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


def where_expression(where: Mapping[str, Any]) -> Expr | None:
    """The condition that all columns meet theirs; None where there is no condition.

    A condition is a value (equal), a list of values (one of), or operators with a value each.
    Raises ConfigError for a value or an operator that no filter can hold.
    """
    try:
        return _expression(where)
    except (TypeError, ValueError, OverflowError, KeyError) as error:
        raise ConfigError(f"search.where: {error} cannot be used in a filter") from error


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


def fault_of(column: str, kind: pa.DataType, condition: Any) -> str | None:
    """Why the condition cannot be asked of a column of that type, or None."""
    wanted = _comparable(kind)
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
