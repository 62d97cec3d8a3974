"""What all parts of the config share."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")]
QueryType = Literal["vector", "fts", "hybrid"]
LEGS: Final[dict[str, tuple[str, ...]]] = {
    "vector": ("vector",),
    "fts": ("fts",),
    "hybrid": ("vector", "fts"),
}
"""The legs that each query type is made of."""


class Part(BaseModel):
    """A part of the config: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def is_ours(table: str) -> bool:
    """Whether rescore itself makes a table of that name; some file systems ignore case."""
    return table.lower() in _OURS or table.lower().startswith("results_")


_OURS = {
    "queries",
    "searches",
    "recalls",
    "candidates",
    "pair_scores",
    "runs",
    "judgments",
    "metrics",
    "promotions",
    "label_sets",
    "labels",
    "rejects",
    "ingests",
}
