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


def published_line(published: Mapping[str, Any]) -> str:
    """What consumers see, in one line: table, run, rows, queries and version."""
    what = "now" if published["changed"] else "already"
    return (
        f"table {published['table']} holds run {published['run_id'][:8]} {what}: "
        f"{published['rows']:,} rows of {published['queries']:,} queries, "
        f"version {published['version']}"
    )
