"""What commands about runs read from a database; plain functions, for no server is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reranking.evaluation.evaluate_run import stored_means
from reranking.runs.export import export_results
from reranking.runs.promotion import promote as promote_run
from reranking.runs.promotion import promoted_names
from reranking.runs.run import find_run, list_rows
from reranking.store import Database
from reranking.upkeep.retention import forget_run


def runs(database: str) -> list[dict[str, Any]]:
    """All runs of the database, newest first, with the names they are promoted as."""
    opened = Database(database, must_exist=True)
    names = promoted_names(opened)
    return [row | {"promoted_as": names.get(row["run_id"], [])} for row in list_rows(opened)]


def run(database: str, run_id: str) -> dict[str, Any]:
    """One run, with its measures and the names it is promoted as."""
    opened = Database(database, must_exist=True)
    row = find_run(opened, run_id).stored
    promoted = promoted_names(opened).get(row["run_id"], [])
    return row | {"promoted_as": promoted, "measures": stored_means(opened, row["run_id"])}


def promote(database: str, run_id: str, name: str) -> str:
    """Give the name to a finished run; the run's whole id."""
    return promote_run(Database(database, must_exist=True), run_id, name)


def forget(database: str, run_id: str) -> str:
    """Drop a run and what is only its own; the run's whole id."""
    return forget_run(Database(database, must_exist=True), run_id)


def export(database: str, run_id: str, format: str, out: Path, query_type: str | None) -> int:
    """Write a run's results to a file; the number of rows."""
    opened = Database(database, must_exist=True)
    return export_results(find_run(opened, run_id), format, out, query_type)
