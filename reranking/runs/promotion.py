"""Named runs: `production` is the run that somebody promoted, never whatever was last."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from reranking.corpus.vector_moves import Moved, move_in
from reranking.corpus.vector_tables import SUPPLIED
from reranking.errors import ConfigError
from reranking.runs.listing import find_run
from reranking.runs.run import Run
from reranking.schemas import PROMOTIONS
from reranking.store import Database, equals

TABLE = "promotions"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_RESERVED = "first"  # where runs are compared, a run's own first stage


@dataclass(frozen=True)
class Promoted:
    """The run that has the name now; `moved` is set where its vectors had to be moved for it."""

    run: Run
    moved: Moved | None = None


def promote(database: Database, run: str, name: str) -> Promoted:
    """Give the name to a finished run, taking it from another one.

    If it is the name that the run's config compares with, the documents table gets the vectors
    that the run searched, and keeps those that it had in a table beside it: ingest and run use
    their encoder from then on.

    Raises MissingResource if the run does not exist or its vectors are not stored, ConfigError if
    it is not finished or the name cannot be one.
    """
    if not _NAME.fullmatch(name) or name == _RESERVED:
        raise ConfigError(
            f"a run cannot be promoted as {name[:200]!r}: expected letters, digits, _ . -, "
            f"and not {_RESERVED!r}"
        )
    chosen = find_run(database, run)
    if chosen.status != "done":
        raise ConfigError(
            f"run {chosen.run_id[:8]} is {chosen.status}, only a finished run can be promoted"
        )
    moved = _move_vectors(chosen, name)
    promoted = {"name": name, "run_id": chosen.run_id, "promoted_at": datetime.now(UTC)}
    database.merge(TABLE, pa.Table.from_pylist([promoted], PROMOTIONS), PROMOTIONS)
    return Promoted(chosen, moved)


def _move_vectors(run: Run, name: str) -> Moved | None:
    """Move the vectors that the run searched into its documents table, unless they are there."""
    config = run.config
    if config is None or name != config.comparison.against or not run.corpus.managed:
        return None
    if config.candidates is not None or "vector" not in run.search.legs:
        return None
    return move_in(run.database, config.documents, run.stored["encoder"] or SUPPLIED)


def promoted_run(database: Database, name: str) -> str | None:
    """The id of the run that has the name, None where no run has it."""
    rows = database.read(TABLE, equals("name", name)).to_pylist()
    return str(rows[0]["run_id"]) if rows else None


def promoted_names(database: Database) -> dict[str, list[str]]:
    """The names of each promoted run, by run id."""
    names: dict[str, list[str]] = {}
    for row in sorted(database.read(TABLE).to_pylist(), key=lambda r: str(r["name"])):
        names.setdefault(row["run_id"], []).append(row["name"])
    return names
