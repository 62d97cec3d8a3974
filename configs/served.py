"""A reranker that a server has: where it is asked, and in which dialect."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from configs.part import Part
from configs.source import open_place

Dialect = Literal["cohere", "jina", "tei", "vllm"]

# What a key looks like does not fit it: a key in its place would be stored with every run.
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,99}")


def _endpoint(value: str) -> str:
    if any(c.isspace() or not c.isprintable() for c in value):
        raise ValueError("an address has no blanks")
    try:
        parts = urlsplit(open_place(value))
        parts.port  # noqa: B018 - raises for what is no port
    except ValueError as error:
        raise ValueError(str(error)) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            "expected the address that pairs are posted to, as https://api.cohere.com/v2/rerank or "
            "http://127.0.0.1:8080/rerank"
        )
    return value


def _variable(value: str | None) -> str | None:
    if value is not None and not _VARIABLE.fullmatch(value):
        raise ValueError(
            "expected the name of an environment variable, in capitals as COHERE_API_KEY; the key "
            "itself belongs in no config, for configs are stored with every run"
        )
    return value


class RerankApi(Part):
    url: Annotated[str, Field(min_length=1), AfterValidator(_endpoint)] = Field(
        description="address that pairs are posted to; query and document texts are sent there"
    )
    model: str = Field(min_length=1, description="the model's name on the server")
    dialect: Dialect = Field(description="cohere: v2/rerank; vllm: /score; jina and tei: rerank")
    key_env: Annotated[str | None, AfterValidator(_variable)] = Field(
        None, description="environment variable that holds the server's key"
    )
    version: str | None = Field(
        None, min_length=1, description="yours to change when another model has the same name"
    )
    batch: int | None = Field(
        None, ge=1, le=1000, description="pairs a request; None: 100, tei 32, vllm 64"
    )
    concurrency: int = Field(4, ge=1, le=64, description="requests at a time")
