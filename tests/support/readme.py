"""The README's generated tables; `python -m tests.support.readme` writes them into it."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from configs.schema import Config
from reranking import schemas
from tests.conftest import REPOSITORY

README = REPOSITORY / "README.md"


def keys_table() -> str:
    """The config's keys as a Markdown table, from the schema itself."""
    lines = ["| key | default | meaning |", "|---|---|---|"]
    lines += [f"| `{key}` | {default} | {text} |" for key, default, text in _keys(Config, "")]
    return "\n".join(lines)


def _keys(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        inner = _part(field.annotation)
        key = f"{prefix}{name}"
        shared = {"Source": "documents.", "Judgments": ""}  # told once, where they stand alone
        if inner is None or shared.get(inner.__name__, prefix) != prefix:
            text = field.description or "as documents.source"
            yield key, _default(field.default), _escaped(text)
        else:
            if int in typing.get_args(field.annotation) or _named(field.annotation):
                yield key, _default(field.default), _escaped(field.description or "")
            yield from _keys(inner, f"{key}.NAME." if _named(field.annotation) else f"{key}.")


def _named(annotation: Any) -> bool:
    """Whether a field holds parts by their names."""
    return typing.get_origin(annotation) is dict


def _part(annotation: Any) -> type[BaseModel] | None:
    """The part of the config that a field holds, optional or not; None for plain values."""
    options = (
        typing.get_args(annotation)
        if typing.get_origin(annotation) in (typing.Union, types.UnionType, dict)
        else (annotation,)
    )
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def _default(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, tuple | list):
        return f"`[{', '.join(map(str, value))}]`"
    if value is None:
        return "`null`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def schemas_table() -> str:
    """The tables' columns as a Markdown table, from the schemas themselves."""
    lines = ["| table | columns (key in bold, * may be null) |", "|---|---|"]
    for name, schema in schemas.TABLES.items():
        key = schemas.key_of(schema)
        columns = [_column(field, field.name in key) for field in schema]
        lines.append(f"| `{name}` | {', '.join(columns)} |")
    return "\n".join(lines)


def _column(field: pa.Field, is_key: bool) -> str:
    kind = str(field.type).replace("fixed_size_binary[16]", "hash")
    kind = kind.replace("timestamp[us, tz=UTC]", "time").replace("list<item: ", "list<")
    name = f"**{field.name}**" if is_key else field.name
    return f"{name} {kind}{'*' if field.nullable else ''}"


def filled(text: str) -> str:
    """The README with its generated tables as they should be."""
    for name, table in (("keys", keys_table()), ("schemas", schemas_table())):
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text, found = re.subn(
            pattern, lambda m, t=table: f"{m[1]}{t}\n{m[2]}", text, flags=re.DOTALL
        )
        if found != 1:
            raise ValueError(f"{found} places for the table {name!r}, expected one")
    return text


if __name__ == "__main__":
    README.write_text(filled(README.read_text("utf-8")), "utf-8")
