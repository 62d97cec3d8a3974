"""Look after a database: upgrade, forget old runs, tidy the scores, sweep, compact, prune.

Everything here may run beside ingests and runs: rows are deleted by what they are and never
rewritten, pinned versions are tagged and never pruned, and what may be work in progress is left
for the next time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

import pyarrow as pa

from configs.schema import Keep
from reranking.corpus.corpus import Corpus, hashes_of
from reranking.corpus.fields import path_of
from reranking.corpus.stored import READY
from reranking.runs.listing import list_rows
from reranking.runs.rows import RunRow
from reranking.runs.run import Run
from reranking.store import Database, one_of
from reranking.upkeep.columns import extra_columns, move_columns, superseded_tables
from reranking.upkeep.held import size_of, what_is_held
from reranking.upkeep.orphans import (
    drop_candidates,
    half_created,
    orphan_candidates,
    orphan_tags,
    stale_files,
)
from reranking.upkeep.retention import (
    drop_run,
    held_runs,
    runs_to_drop,
    searches_of_runs,
    unfinished_runs,
)
from reranking.upkeep.tidy import Wanted, tidy_scores
from reranking.upkeep.versions import our_tables, outdated, prune, upgrade

log = logging.getLogger(__name__)

VERSIONS: Final = timedelta(days=7)
"""How old a version of a table is when it is pruned."""
LEFTOVERS: Final = timedelta(days=1)
"""How old a killed writer's file or half-created table is when it is removed."""


@dataclass(frozen=True)
class Configured:
    """What the config asks scores for, besides the kept runs: its documents and its models.

    `rerankers` are the models' fingerprints; the version of `corpus` does not matter.
    """

    corpus: Corpus | None = None
    rerankers: frozenset[bytes] = frozenset()


@dataclass
class Maintained:
    """What maintenance did, or would do in a dry run."""

    dry_run: bool = False
    upgraded: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    candidates: int = 0
    tags: int = 0
    scores: int = 0
    duplicates: int = 0
    unused: int = 0
    files: int = 0
    bytes: int = 0
    folders: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    vectors: list[str] = field(default_factory=list)
    tables: int = 0
    versions: int = 0
    bytes_before: int | None = None  # of the whole database; None on an object store
    bytes_after: int | None = None
    held: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-like values."""
        return asdict(self) | {"seconds": round(self.seconds, 2)}


def maintain(
    database: Database,
    keep: Keep | None = None,
    configured: Configured | None = None,
    *,
    versions: timedelta = VERSIONS,
    dry_run: bool = False,
) -> Maintained:
    """Do what is due and report it; the database must have been opened with `upgrading`.

    Without `keep` every run stays. Its `scores: used` also drops scores of models and texts that no
    kept run and no present document, query or configured model asks for. Table versions older than
    `versions` are pruned; what is held back, and by what, is said. A dry run of an older database
    reports the upgrade alone: the rest needs the present schema.
    """
    started = time.monotonic()
    done = Maintained(dry_run=dry_run)
    done.bytes_before = size_of(database)
    done.upgraded = outdated(database) if dry_run else upgrade(database)
    if not (dry_run and done.upgraded):
        suspects = _lone_tags(database)
        if keep is not None:
            _retain(database, keep, done)
        _sweep_candidates(database, done)
        unused = keep is not None and keep.scores == "used"
        _tidy(database, (configured or Configured()) if unused else None, done)
        _sweep_tags(database, suspects, done)
        _sweep_files(database, done)
        _drop_columns(database, done)
        _compact(database, versions, done)
        done.held = what_is_held(database, keep, versions, done.forgotten)
    done.bytes_after = size_of(database)
    done.seconds = time.monotonic() - started
    return done


def _retain(database: Database, keep: Keep, done: Maintained) -> None:
    rows = list_rows(database)
    dropped = runs_to_drop(
        rows,
        keep,
        datetime.now(UTC),
        held=held_runs(database),
        unfinished=unfinished_runs(database, rows),
    )
    for row in dropped:
        if row["run_id"] not in held_runs(database):  # it may have been promoted meanwhile
            done.forgotten.append(str(row["run_id"]))
            if not done.dry_run:
                drop_run(database, row)


def _kept(database: Database, done: Maintained) -> list[RunRow]:
    """The rows of the runs that stay; in a dry run those to be forgotten are still there."""
    return [row for row in list_rows(database) if row["run_id"] not in done.forgotten]


def _sweep_candidates(database: Database, done: Maintained) -> None:
    orphans = orphan_candidates(database, leaving=done.forgotten)
    done.candidates = orphans.rows
    if not done.dry_run:
        drop_candidates(database, orphans, searches_of_runs(database))


def _tidy(database: Database, configured: Configured | None, done: Maintained) -> None:
    """Delete duplicates; with `configured` also the scores that nothing asks for."""
    wanted = None
    if configured is not None:
        wanted = partial(_wanted_scores, database, done, configured)
    tidied = tidy_scores(database, wanted, dry_run=done.dry_run)
    done.scores, done.duplicates = tidied.rows, tidied.duplicates
    done.unused = tidied.unwanted


def _wanted_scores(database: Database, done: Maintained, configured: Configured) -> Wanted:
    """The models and texts of the kept runs, the present queries and documents, and the config."""
    kept = _kept(database, done)
    used = [name for r in kept for name in (r["reranker"], r["refiner"])]
    rerankers = configured.rerankers | {bytes.fromhex(name) for name in used if name}
    corpora = {replace(Run.of_row(database, row).corpus, version=0) for row in kept}
    if configured.corpus is not None:
        corpora.add(replace(configured.corpus, version=0))
    queries: set[bytes] = set()
    documents: set[bytes] = set()
    for batch in database.stream("queries", columns=["text_hash"]):
        queries.update(batch.column("text_hash").to_pylist())
    searches = one_of("search_id", sorted({str(r["search_id"]) for r in kept}) or [""])
    for batch in database.stream("candidates", searches, ["query_hash", "doc_hash"]):
        queries.update(batch.column("query_hash").unique().to_pylist())
        documents.update(batch.column("doc_hash").unique().to_pylist())
    for corpus in corpora:
        documents.update(_present_texts(database, corpus))
    return Wanted(rerankers, frozenset(queries), frozenset(documents))


def _present_texts(database: Database, corpus: Corpus) -> Iterable[bytes]:
    """The hashes of what the reranker reads of the documents, as they are and as last completed."""
    column = corpus.hash_column or corpus.scored
    home = corpus.database(database)
    table = home.open(corpus.table)
    if table is None:
        return
    versions = {int(table.version), home.tags(corpus.table).get(READY, int(table.version))}
    for version in versions:
        if path_of(home.need(corpus.table, version).schema, column) is not None:
            for batch in home.stream(corpus.table, columns=[column], version=version):
                yield from hashes_of(pa.array(batch.column(column)), corpus)


def _lone_tags(database: Database) -> list[tuple[str, str]]:
    run_ids = {str(r["run_id"]) for r in list_rows(database)}
    return orphan_tags(database, our_tables(database), run_ids)


def _sweep_tags(database: Database, suspects: Sequence[tuple[str, str]], done: Maintained) -> None:
    """Remove tags without a run, if they had none at the start: a run tags, then writes its row."""
    lone = set(suspects) & set(_lone_tags(database))
    done.tags = len(lone)
    if not done.dry_run:
        for table, tag in sorted(lone):
            database.untag(table, tag)


def _sweep_files(database: Database, done: Maintained) -> None:
    files = stale_files(database, our_tables(database), LEFTOVERS)
    done.files, done.bytes = len(files), sum(path.lstat().st_size for path in files)
    done.folders = half_created(database, LEFTOVERS)
    if not done.dry_run:
        for path in files:
            path.unlink(missing_ok=True)
        for name in done.folders:
            database.drop(name)


def _drop_columns(database: Database, done: Maintained) -> None:
    """Move columns of earlier trials to tables of their own, drop vectors that no run is left of.

    Both are of encoders that are not in use.
    """
    for name in our_tables(database):
        move = extra_columns if done.dry_run else move_columns
        done.columns += [f"{name}.{column}" for column in move(database, name)]
        unused = superseded_tables(database, name, LEFTOVERS)
        done.vectors += unused
        if not done.dry_run:
            for table in unused:
                database.drop(table)


def _compact(database: Database, older_than: timedelta, done: Maintained) -> None:
    names = our_tables(database)
    done.tables = len(names)
    if not done.dry_run:
        for name in names:
            database.optimize(name)
            done.versions += prune(database, name, older_than)
