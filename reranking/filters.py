"""From the config's `where` to a LanceDB expression; no SQL is built from strings. Pure."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from functools import reduce
from typing import Any

from lancedb.expr import Expr, col, lit

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
    """
    parts: list[Expr] = []
    for column, condition in where.items():
        if isinstance(condition, Mapping):
            parts += [_OPERATORS[name](col(column), lit(v)) for name, v in condition.items()]
        elif isinstance(condition, list | tuple):
            parts.append(col(column).isin(list(condition)))
        else:
            parts.append(col(column) == lit(condition))
    return reduce(operator.and_, parts) if parts else None
