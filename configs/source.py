"""Where rows come from, and where tables and models are."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from configs.part import Name, Part

_CREDENTIALS = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://([^/]*@|[^?]*\?)")


def _open(value: str) -> str:
    if "\0" in value:
        raise ValueError("a NUL character is in no path or name")
    if _CREDENTIALS.match(value):
        raise ValueError(
            "a URI in a config is stored with every run, so it must not hold a user, a password or "
            "options; give credentials by the environment (AWS_ACCESS_KEY_ID, ...)"
        )
    return value


Place = Annotated[str, Field(min_length=1), AfterValidator(_open)]


class Source(Part):
    format: Literal[
        "beir", "jsonl", "parquet", "csv", "lance", "python-docs", "ir-datasets", "trec", "quepid"
    ] = Field(description="layout of the files")
    path: Place | None = Field(None, description="file or folder, relative to the config file")
    split: Name | None = Field(None, description="BEIR split: which qrels/SPLIT.tsv counts")
    name: str | None = Field(None, description="ir-datasets id, e.g. beir/scifact/test")
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
