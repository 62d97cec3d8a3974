"""Which vector columns are in use, which are kept for stored runs, and which may go.

Ingest and run use the columns of promoted runs only (before any promotion: `vector`): promoting a
run is what switches between encoders.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from reranking.corpus.ingest import READY
from reranking.corpus.vector_columns import FIRST_COLUMN, encoder_column, vector_columns
from reranking.errors import InputError
from reranking.runs.promotion import promoted_names
from reranking.runs.run import Run, RunRow, list_rows
from reranking.store import Database


def live_columns(database: Database, table: str) -> set[str]:
    """The columns that ingest and run may use: those of promoted runs, else the first one."""
    promoted = promoted_names(database)
    rows = (r for r in list_rows(database) if r["run_id"] in promoted)
    promoted_columns = _searched(database, (r for r in rows if r["documents_table"] == table))
    return promoted_columns & set(vector_columns(database, table)) or {FIRST_COLUMN}


def _searched(database: Database, runs: Iterable[RunRow]) -> set[str]:
    """The vector columns that runs searched; FTS searches and given rankings used none."""
    stored = (
        Run.of_row(database, run)
        for run in runs
        if json.loads(run["config_json"]).get("candidates") is None
    )
    return {run.corpus.vector for run in stored if "vector" in run.search.legs}


def column_in_use(database: Database, table: str, fingerprint: str) -> str:
    """The column that ingest and run use for an encoder.

    Raises InputError where the encoder has a column that no promoted run uses. An encoder without
    one is answered with the first column, whose mark tells it apart.
    """
    column = encoder_column(database, table, fingerprint)
    if column is None:
        return FIRST_COLUMN
    live = live_columns(database, table)
    if column not in live:
        raise InputError(
            f"the vectors of encoder {fingerprint[:8]} are in column {column!r} of table {table!r},"
            f" which is not in use; in use is {', '.join(sorted(live))}. Promote a run that "
            "searched this column (`rescore promote RUN_ID --as production`), or name the encoder "
            "in use."
        )
    return column


def superseded_columns(database: Database, table: str) -> list[str]:
    """Complete vector columns that neither ingest, run nor any stored run uses any more."""
    ready = database.tagged(table, READY)
    if ready is None:
        return []
    complete = set(vector_columns(database, table, ready))
    rows = (r for r in list_rows(database) if r["documents_table"] == table)
    used = _searched(database, rows) | live_columns(database, table)
    return sorted(complete - used)


def drop_superseded(database: Database, table: str) -> list[str]:
    """Drop the superseded vector columns of a table and move `ready` along; their names.

    Pinned versions keep theirs. Nothing is dropped while an ingest is unfinished.
    """
    columns = superseded_columns(database, table)
    opened = database.need(table)
    if not columns or int(opened.version) != database.tagged(table, READY):
        return []
    opened.drop_columns(columns)
    database.tag(table, READY, int(database.need(table).version))
    return columns
