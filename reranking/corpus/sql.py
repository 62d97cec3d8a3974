"""SQL for filters that `lancedb.expr` cannot express: on fields inside structs. Pure.

The only place where SQL is written. It is put together of typed parts: identifiers in backticks,
which are doubled inside (as DataFusion reads them), literals by LanceDB's own `lit(x).to_sql()`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from lancedb.expr import lit

_SIGNS: Final = {"eq": "=", "ne": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def condition_sql(where: Mapping[Sequence[str], Any]) -> str:
    """Write the condition that all fields meet theirs; a key is a field's path from the top.

    A condition is a value (equal), a list of values (one of), or operators with a value each.
    """
    parts = []
    for path, condition in where.items():
        field = field_sql(path)
        if isinstance(condition, Mapping):
            parts += [
                f"({field} {_SIGNS[name]} {lit(v).to_sql()})" for name, v in condition.items()
            ]
        elif isinstance(condition, list | tuple):
            parts.append(f"({field} IN ({', '.join(lit(v).to_sql() for v in condition)}))")
        else:
            parts.append(f"({field} = {lit(condition).to_sql()})")
    return " AND ".join(parts)


def has_text_sql(column: str) -> str:
    """Write the condition that a text column is neither null nor blank."""
    return f"regexp_like({field_sql([column])}, '\\S')"


def is_null_sql(column: str) -> str:
    """Write the condition that a column is null."""
    return f"{field_sql([column])} IS NULL"


def not_rows_sql(rows: Sequence[int]) -> str:
    """Write the condition that a row is none of those, by their addresses in the table."""
    return f"_rowid NOT IN ({', '.join(str(int(row)) for row in rows)})"


def field_sql(path: Sequence[str]) -> str:
    """Write a field's path as a quoted identifier."""
    return ".".join(f"`{name.replace('`', '``')}`" for name in path)
