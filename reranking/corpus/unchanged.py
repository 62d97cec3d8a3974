"""Has the source changed at all since the last completed ingest? Then no row of it is read.

A source is recognised by the bytes of its files, the table by the sum of its rows' hashes: each
covers all of a source row, its id too, and the settings that made a document of it. Neither depends
on versions, which compaction makes as well.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from reranking.fingerprints import fingerprint
from reranking.schemas import HASH, INGESTS
from reranking.store import Database, equals

TABLE = "ingests"
_COUNTS = ("rows", "inserted", "updated", "unchanged", "kept", "rejected")


def mark_of(source: str, settings: Mapping[str, Any]) -> str:
    """32 hex digits that name a source's bytes and all that decides what they become."""
    return fingerprint([source, settings])


def completed(
    database: Database, table: str, mark: str, source_fp: str
) -> tuple[dict[str, int], Counter[str]] | None:
    """The counts and rejects' reasons of the last completed ingest, if nothing changed since.

    None as well where stored rejects are gone: they are told again by a whole ingest.
    """
    rows = database.read(TABLE, equals("documents_table", table)).to_pylist()
    if not rows or rows[0]["mark"] != mark:
        return None
    counts, reasons = (
        json.loads(rows[0]["counts_json"]),
        Counter(json.loads(rows[0]["reasons_json"])),
    )
    if rows[0]["content"] != content_of(database, table):
        return None
    rejects = database.open("rejects")
    of_source = equals("source_fp", source_fp).to_sql()
    stored = 0 if rejects is None else rejects.count_rows(of_source)
    return (counts, reasons) if stored == counts["rejected"] else None


def note_completed(
    database: Database, table: str, mark: str, counts: Mapping[str, int], reasons: Mapping[str, int]
) -> None:
    """Store that the source of this mark is all in the table now."""
    same = {name: counts[name] for name in _COUNTS}
    same["unchanged"] += same.pop("inserted") + same.pop("updated")
    row = {
        "documents_table": table,
        "mark": mark,
        "content": content_of(database, table),
        "counts_json": json.dumps(same),
        "reasons_json": json.dumps(dict(reasons)),
        "completed_at": datetime.now(UTC),
    }
    database.merge(TABLE, pa.Table.from_pylist([row], INGESTS), INGESTS)


def content_of(database: Database, table: str) -> str:
    """What the table holds: how many rows, and the sum of their hashes, in any order."""
    total, count = np.zeros(2, np.uint64), 0
    for batch in database.stream(table, columns=["row_hash"]):
        column = batch.column("row_hash").cast(HASH)
        words = np.frombuffer(column.buffers()[1], np.uint64)[2 * column.offset :]
        total += words[: 2 * len(column)].reshape(-1, 2).sum(axis=0, dtype=np.uint64)
        count += len(column)
    return fingerprint([count, *(int(word) for word in total)])
