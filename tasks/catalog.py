"""What commands about runs read from a database; plain functions, for no server is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reranking.evaluate_run import stored_means
from reranking.export import export_results
from reranking.runs import find_run, list_runs, plan_of
from reranking.store import Database


def runs(database: str) -> list[dict[str, Any]]:
    """All runs of the database, newest first."""
    return list_runs(Database(database, must_exist=True))


def run(database: str, run_id: str) -> dict[str, Any]:
    """One run, with its measures."""
    opened = Database(database, must_exist=True)
    row = find_run(opened, run_id)
    return row | {"measures": stored_means(opened, row["run_id"])}


def export(database: str, run_id: str, format: str, out: Path, query_type: str | None) -> int:
    """Write a run's results to a file; the number of rows."""
    opened = Database(database, must_exist=True)
    return export_results(opened, plan_of(find_run(opened, run_id)), format, out, query_type)
