"""What maintenance leaves, and why: runs that a name keeps, versions that a run's tag keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from configs.schema import Keep
from reranking.runs.listing import list_rows
from reranking.store import Database
from reranking.upkeep.retention import held_runs, runs_to_drop, unfinished_runs
from reranking.upkeep.versions import held_versions, our_tables


def size_of(database: Database) -> int | None:
    """Return the bytes of a database on a local disk; None for one on an object store."""
    if "://" in database.uri:
        return None
    total = 0
    for path in Path(database.uri).rglob("*"):
        with suppress(OSError):  # another process has just removed it
            total += path.lstat().st_size if path.is_file() else 0
    return total


def what_is_held(
    database: Database, keep: Keep | None, older_than: timedelta, leaving: Sequence[str]
) -> list[str]:
    """Return in words the runs beyond `keep` that stay, and the older versions that stay.

    Runs that are `leaving` hold nothing.
    """
    said = []
    rows = [row for row in list_rows(database) if row["run_id"] not in leaving]
    reasons = held_runs(database)
    if keep is not None:
        unfinished = unfinished_runs(database, rows)
        for row in runs_to_drop(rows, keep, datetime.now(UTC), unfinished=unfinished):
            why = "; ".join(reasons.get(row["run_id"], ["it is at work"]))
            said.append(f"run {row['run_id'][:8]}, beyond keep: {why}")
    for name in our_tables(database):
        count, tags = held_versions(database, name, older_than)
        if count:
            who = ", ".join(_holder(tag, reasons) for tag in tags)
            said.append(f"{count:,} older versions of {name}: {who}")
    return said


def _holder(tag: str, reasons: Mapping[str, Sequence[str]]) -> str:
    run_id = tag.removeprefix("run-")
    if run_id == tag:
        return f"the tag {tag}"
    why = reasons.get(run_id)
    return f"run {run_id[:8]} reads them" + (f" ({'; '.join(why)})" if why else "")
