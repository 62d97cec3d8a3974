"""Fields of a table by name: its columns, and those inside structs by their path. Pure.

A path is written with dots, as LanceDB writes it (`meta.body`); a column's own name has none.
LanceDB gives a selected field back under the path that it was asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

_PART: Final = re.compile(r"`((?:[^`]|``)*)`|([^.`]+)")


def path_of(schema: pa.Schema, name: str) -> list[str] | None:
    """Return the path of a column or of a field inside structs (`meta.lang`); None if none is."""
    if name in schema.names:
        return [name]
    fields, path = {f.name: f for f in schema}, name.split(".")
    for place, part in enumerate(path):
        if part not in fields:
            return None
        kind = fields[part].type
        if place < len(path) - 1:
            if not pa.types.is_struct(kind):
                return None
            fields = {f.name: f for f in kind}
    return path


def field_of(schema: pa.Schema, name: str) -> pa.Field | None:
    """Return a column, or a field inside structs; None if it does not exist."""
    path = path_of(schema, name)
    if path is None:
        return None
    field = schema.field(path[0])
    for part in path[1:]:
        field = field.type.field(part)
    return field


def type_of(schema: pa.Schema, name: str) -> pa.DataType | None:
    """Return the type of a column or of a field inside structs; None if it does not exist."""
    field = field_of(schema, name)
    return None if field is None else field.type


def value_at(row: Mapping[str, Any], path: Sequence[str]) -> Any:
    """Return the value of a row at a path; None below a null."""
    value: Any = row
    for name in path:
        value = None if value is None else value[name]
    return value


def names_of(schema: pa.Schema) -> list[str]:
    """Return the names of all fields, those inside structs by their path."""
    return [name for field in schema for name in _names(field, "")]


def _names(field: pa.Field, before: str) -> Iterator[str]:
    name = before + field.name
    if pa.types.is_struct(field.type):
        for inner in field.type:
            yield from _names(inner, f"{name}.")
    else:
        yield name


def is_index_of(columns: Sequence[str], name: str) -> bool:
    """Whether an index, by the columns that LanceDB says it has, is that of this one field.

    LanceDB puts those parts of a path into backticks that hold more than letters and digits.
    """
    if list(columns) == [name]:
        return True
    if len(columns) != 1 or "." not in columns[0]:
        return False
    parts = [quoted.replace("``", "`") or bare for quoted, bare in _PART.findall(columns[0])]
    return ".".join(parts) == name
