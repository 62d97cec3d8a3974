"""What killed and forgotten work left behind: candidates, tags, files, half-created tables."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import polars as pl

from reranking.arrow import frame
from reranking.runs.listing import list_rows
from reranking.schemas import TABLES
from reranking.store import Database, equals, one_of
from reranking.upkeep.retention import drop_search, unfinished_runs

log = logging.getLogger(__name__)

_RUN_TAG = "run-"


@dataclass(frozen=True)
class OrphanCandidates:
    """Searches that no run names; attempts that no row of `searches` names, by search."""

    searches: list[str] = field(default_factory=list)
    attempts: Mapping[str, list[str]] = field(default_factory=dict)
    rows: int = 0


def orphan_candidates(database: Database, leaving: Iterable[str] = ()) -> OrphanCandidates:
    """The candidates that no run reads, those that are `leaving` aside.

    An unfinished run's search keeps all its attempts: one may be about to be marked. A run's row
    is written before its first candidates, so the rows are read after them.
    """
    stored = _stored_attempts(database)
    marks = database.read("searches", columns=["search_id", "attempt"])
    marked = set(marks.column("attempt").to_pylist()) if marks.num_columns else set()
    searches = set(marks.column("search_id").to_pylist()) if marks.num_columns else set()
    gone = set(leaving)
    rows = [row for row in list_rows(database) if row["run_id"] not in gone]
    waiting = unfinished_runs(database, rows)
    named = {str(r["search_id"]) for r in rows}
    busy = {str(r["search_id"]) for r in rows if r["run_id"] in waiting}
    lost = sorted((searches | {s for s, _ in stored}) - named)
    attempts: dict[str, list[str]] = {}
    count = 0
    for (search_id, attempt), rows_of in stored.items():
        if search_id in named - busy and attempt not in marked:
            attempts.setdefault(search_id, []).append(attempt)
            count += rows_of
        elif search_id not in named:
            count += rows_of
    return OrphanCandidates(lost, attempts, count)


def drop_candidates(database: Database, orphans: OrphanCandidates, still_named: set[str]) -> None:
    """Delete them, but for searches that a run has come to name meanwhile."""
    for search_id in orphans.searches:
        if search_id not in still_named:
            drop_search(database, search_id)
    for search_id, attempts in orphans.attempts.items():
        of_search = equals("search_id", search_id)
        database.delete("candidates", of_search & one_of("attempt", attempts))


def _stored_attempts(database: Database) -> dict[tuple[str, str], int]:
    counts: dict[tuple[str, str], int] = {}
    for batch in database.stream("candidates", columns=["search_id", "attempt"]):
        for search_id, attempt, count in (
            frame(batch).group_by("search_id", "attempt").agg(pl.len()).iter_rows()
        ):
            key = (search_id, attempt)
            counts[key] = counts.get(key, 0) + count
    return counts


def orphan_tags(
    database: Database, tables: Iterable[str], run_ids: set[str]
) -> list[tuple[str, str]]:
    """(table, tag) of runs' tags whose run has no row: it was killed as it began."""
    return [
        (table, tag)
        for table in tables
        for tag in database.tags(table)
        if tag.startswith(_RUN_TAG) and tag.removeprefix(_RUN_TAG) not in run_ids
    ]


def stale_files(database: Database, tables: Iterable[str], older_than: timedelta) -> list[Path]:
    """Temporary files of killed writers in our tables; none for a database on an object store.

    LanceDB writes a data file as `.tmpXXXX` and renames it; its own clean-up leaves these behind.
    """
    return [
        path
        for folder in _folders(database, tables)
        for path in folder.rglob(".tmp*")
        if path.is_file() and not path.is_symlink() and _age(path) > older_than
    ]


def half_created(database: Database, older_than: timedelta) -> list[str]:
    """The names of our tables whose creator was killed before the first commit.

    None for a database on an object store: it does not say since when a table is being created.
    """
    return [
        name
        for name in database.names()
        if (name in TABLES or name.startswith("results_"))
        and any(_settled(folder, older_than) for folder in _folders(database, [name]))
        and database.open(name) is None
    ]


def _settled(folder: Path, older_than: timedelta) -> bool:
    return all(_age(path) > older_than for path in [folder, *folder.rglob("*")])


def _folders(database: Database, tables: Iterable[str]) -> Iterator[Path]:
    if "://" not in database.uri:
        yield from (Path(database.uri) / f"{name}.lance" for name in tables)


def _age(path: Path) -> timedelta:
    try:
        return timedelta(seconds=time.time() - path.lstat().st_mtime)
    except FileNotFoundError:  # its writer has just finished
        return timedelta(0)
