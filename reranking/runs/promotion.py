"""Named runs: `production` is the run that somebody promoted, never whatever was last."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pyarrow as pa

from reranking.errors import ConfigError
from reranking.runs.run import find_run
from reranking.schemas import PROMOTIONS
from reranking.store import Database, equals

TABLE = "promotions"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_RESERVED = "first"  # where runs are compared, a run's own first stage


def promote(database: Database, run: str, name: str) -> str:
    """Give the name to a finished run, taking it from another one; the run's whole id.

    Raises MissingResource if the run does not exist, ConfigError if it is not finished or the
    name cannot be one.
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
    promoted = {"name": name, "run_id": chosen.run_id, "promoted_at": datetime.now(UTC)}
    database.merge(TABLE, pa.Table.from_pylist([promoted], PROMOTIONS), PROMOTIONS)
    return chosen.run_id


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
