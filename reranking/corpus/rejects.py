"""Rejected rows, as they are stored."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pyarrow as pa

from reranking.schemas import REJECTS
from reranking.sources.rows import Reject
from reranking.store import Database


def write_rejects(
    database: Database, rejects: list[Reject], source_fp: str, rejected_at: datetime
) -> None:
    """Store rejects under their source and row, so that a repeat does not append them again."""
    if rejects:
        rows = [
            {
                "source_fp": source_fp,
                "row_number": r.number,
                "id": r.id,
                "reason": r.reason,
                "raw": r.raw,
                "rejected_at": rejected_at,
            }
            for r in rejects
        ]
        database.merge("rejects", pa.Table.from_pylist(rows, REJECTS), REJECTS)


def stored_rejects(database: Database, source: str = "", reason: str = "") -> list[dict[str, Any]]:
    """Return the stored rejects, newest first, then in the order of their source.

    `source` is how the source's fingerprint begins, `reason` a part of the reason in any case.
    """
    rows = [
        row
        for row in database.read("rejects").to_pylist()
        if row["source_fp"].startswith(source) and reason.lower() in row["reason"].lower()
    ]
    rows.sort(key=lambda row: (row["source_fp"], row["row_number"]))
    return sorted(rows, key=lambda row: row["rejected_at"], reverse=True)
