"""Numbers as text for tables of every kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def cells(row: Mapping[str, Any]) -> list[str]:
    """Write first stage, reranked and their difference as text; empty if a stage is missing."""
    first, reranked = row["first"], row["reranked"]
    change = None if first is None or reranked is None else reranked - first
    return [
        "" if value is None else f"{value:{sign}.3f}"
        for value, sign in ((first, ""), (reranked, ""), (change, "+"))
    ]
