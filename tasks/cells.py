"""A measure before and after reranking, as text for every kind of table."""

from __future__ import annotations

from typing import Any


def cells(row: dict[str, Any]) -> list[str]:
    """First stage, reranked and their difference as text; empty where there is no such stage."""
    first, reranked = row["first"], row["reranked"]
    change = None if first is None or reranked is None else reranked - first
    return [
        "" if value is None else f"{value:{sign}.3f}"
        for value, sign in ((first, ""), (reranked, ""), (change, "+"))
    ]
