"""Rejected rows, as they are stored."""

from __future__ import annotations

from datetime import datetime

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
