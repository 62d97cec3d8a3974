"""Where rows come from, and where tables and models are."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from configs.part import Name, Part

_URI_LIKE = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]+:\s*[\\/]")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://(?![\s\\])")
# Up to the last @: a password may hold / and @. A path may hold an @, as in s3://bucket/p@1.
_USER = re.compile(
    r"([A-Za-z][A-Za-z0-9+.-]+:\s*[\\/]+)(?:[^'\"`<>?#]*:[^'\"`<>?#]*|[^'\"`<>?#/]*)@"
    # the same without its scheme
    r"|((?<![\w:/\\])[\\/]{2,})[^'\"`<>?#\s/\\]*:[^'\"`<>?#\s]*@"
)
_OPTIONS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+:\s*[\\/]+[^\s'\"`<>?#]*[?#])[^\s'\"`<>]+")


def open_place(value: str) -> str:
    """Return a path, URI or name as it is; raise ValueError if it may hold a user or a password.

    The message never holds the value.
    """
    if "\0" in value:
        raise ValueError("a NUL character is in no path or name")
    is_uri = _URI_LIKE.match(value) is not None
    if _USER.search(value) or (is_uri and ("?" in value or "#" in value)):
        raise ValueError(
            "a URI in a config is stored with every run, so it must not hold a user, a password or "
            "options (USER:PASSWORD@, ? or #; write %40 for an @ in a path); give "
            "credentials by the environment (AWS_ACCESS_KEY_ID, ...)"
        )
    if is_uri and not _URI.match(value):
        raise ValueError("expected a URI as s3://bucket/prefix, without blanks and backslashes")
    return value


def masked(text: str) -> str:
    """Return the text with what may be a user, a password or options of a URI as `***`."""
    return _OPTIONS.sub(r"\1***", _USER.sub(r"\1\2***@", text))


Place = Annotated[str, Field(min_length=1), AfterValidator(open_place)]


_STORES = ("s3", "gs", "az", "abfss", "file")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def database_place(value: str) -> str:
    """Return a database's place as it is; raise ValueError if no run could work in it."""
    found = _SCHEME.match(open_place(value))
    scheme = None if found is None else found[1].lower()
    if scheme == "db":
        raise ValueError(
            "LanceDB Cloud and Enterprise (db://) are not supported: a run streams whole tables, "
            "which their remote tables do not give (to_arrow, to_batches of a scan), and replaces "
            "tables in one streamed commit. Name the folder or bucket that holds the tables, or a "
            "copy of it"
        )
    if scheme == "memory":
        raise ValueError(
            "memory:// ends with each connection, and a run opens several: name a folder"
        )
    if scheme is not None and scheme not in _STORES:
        raise ValueError(
            f"{scheme}:// is no store of LanceDB tables: expected a folder, or a URI of "
            f"{', '.join(f'{s}://' for s in _STORES)}"
        )
    return value


DatabasePlace = Annotated[str, Field(min_length=1), AfterValidator(database_place)]


class Source(Part):
    format: Literal[
        "beir", "jsonl", "parquet", "csv", "lance", "python-docs", "ir-datasets", "trec", "quepid"
    ] = Field(description="layout of the files")
    path: Place | None = Field(
        None,
        description="a file, a folder of them, a URI, or `-` for stdin; relative to the config",
    )
    split: Name | None = Field(None, description="BEIR split: which qrels/SPLIT.tsv counts")
    name: Place | None = Field(None, description="ir-datasets id, e.g. beir/scifact/test")
    quoting: Literal["auto", "csv", "none"] = Field(
        "auto",
        description="CSV's quotes; auto: a `.tsv` quotes whole fields only; none: they are text",
    )
    columns: dict[str, str] = Field({}, description="our column name -> the source's")

    @model_validator(mode="after")
    def _located(self) -> Source:
        needs = {"python-docs": None, "ir-datasets": "name"}.get(self.format, "path")
        if needs and getattr(self, needs) is None:
            raise ValueError(f"format {self.format} needs `{needs}`")
        return self


def readable(source: Source | None, what: str, *refused: str) -> Source | None:
    if source is not None and source.format in refused:
        raise ValueError(f"format {source.format} holds no {what}")
    return source
