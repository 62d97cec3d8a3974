"""A run's row in the table `runs`: how it is read and written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypedDict

import pyarrow as pa

from reranking.runs.settings import pipeline_of_row, settings_of_row
from reranking.schemas import RUNS
from reranking.store import Database, equals

TABLE = "runs"
REFUSED = "gates_failed"  # a finished run's count of failed conditions, while it is not accepted


class RunRow(TypedDict):
    """A row of the table `runs` as it is read: the schema RUNS, with counts and seconds decoded.

    `pipeline` names what it is a night of, `settings` digests what that pipeline was set to.
    `forced` is how it stands with scoring a done run again (`run --force`); None if nothing waits.
    """

    run_id: str
    search_id: str
    status: str
    epoch: int
    query_set: str
    query_types: list[str]
    pipeline: str
    settings: str
    queries_version: int
    queries_content: str
    documents_table: str
    documents_version: int
    documents_content: str
    encoder: str | None
    reranker: str | None
    reranker_model: str | None
    reranker_revision: str | None
    refiner: str | None
    config_json: str
    libraries_json: str
    plan_json: str
    score_path: str | None
    counts: dict[str, float]
    seconds: dict[str, float]
    started_at: datetime
    finished_at: datetime | None
    failure: str | None
    committed_at: datetime | None
    forced: str | None


def stored_row(database: Database, run_id: str) -> dict[str, Any] | None:
    """Read the run's row of the schema RUNS as it stands, None if there is none."""
    rows = database.read(TABLE, equals("run_id", run_id)).to_pylist()
    return rows[0] if rows else None


def decoded(row: Mapping[str, Any]) -> RunRow:
    """Return a row of the schema RUNS with its counts and seconds as dictionaries.

    Its pipeline is named as today, whatever version wrote it.
    """
    values: Any = dict(row)
    values["settings"] = settings_of_row(row)
    values["pipeline"] = str(pipeline_of_row(row))
    for late in ("failure", "committed_at"):  # columns that earlier versions did not write
        values.setdefault(late, None)
    values["forced"] = None
    values["counts"] = json.loads(values.pop("counts_json"))
    values["seconds"] = json.loads(values.pop("seconds_json"))
    typed: RunRow = values
    return typed


def write_row(database: Database, row: Mapping[str, Any], *, update: bool = True) -> None:
    """Commit one row of the table `runs`."""
    database.merge(TABLE, pa.Table.from_pylist([dict(row)], RUNS), RUNS, update=update)
