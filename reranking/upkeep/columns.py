"""Which vectors are in use, which are kept for stored runs, and which may go.

A documents table has one vector column; others are of trials of earlier versions, which `maintain`
moves. Until then ingest and run use those of promoted runs only (before any promotion: `vector`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta

from reranking.corpus.stored import READY
from reranking.corpus.vector_columns import FIRST_COLUMN, encoder_column, vector_columns
from reranking.corpus.vector_tables import SUPPLIED, keep_vectors, vector_tables
from reranking.errors import InputError
from reranking.runs.listing import find_run, list_rows
from reranking.runs.promotion import promoted_names, promoted_run
from reranking.runs.rows import RunRow
from reranking.runs.run import Run
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
            f" which is not in use; in use is {', '.join(sorted(live))}. Run `rescore maintain "
            "CONFIG`, which moves it to a table of its own, and then promote a run of this encoder "
            "(`rescore promote RUN_ID --as production`), or name the encoder in use."
        )
    return column


def extra_columns(database: Database, table: str) -> list[str]:
    """The vector columns that earlier trials left beside the one in use, or instead of `vector`."""
    marks = vector_columns(database, table)
    if database.tagged(table, READY) is None or list(marks) == [FIRST_COLUMN]:
        return []
    return sorted(set(marks) - {_column_that_stays(database, table, marks)})


def _column_that_stays(database: Database, table: str, marks: dict[str, str]) -> str:
    """The column in use; of several that promoted runs use `production`'s, else the first."""
    live = live_columns(database, table) & set(marks)
    production = promoted_run(database, "production")
    if production is not None:
        column = find_run(database, production).corpus.vector
        live = {column} & live or live
    return min(live, key=lambda name: (name != FIRST_COLUMN, name), default=FIRST_COLUMN)


def move_columns(database: Database, table: str) -> list[str]:
    """Leave the documents table one vector column, `vector`; what was moved or dropped.

    Columns of encoders that a stored run used go to tables of their own, others are dropped. Pinned
    versions keep theirs. Nothing is done while an ingest is unfinished.
    """
    marks, version = vector_columns(database, table), database.tagged(table, READY)
    columns = extra_columns(database, table)
    if version is None or int(database.need(table).version) != version:
        return []
    used = _used_encoders(database, table)
    for column in columns:
        if marks[column] in used:
            keep_vectors(database, table, version, column, marks[column])
    if columns:
        database.need(table).drop_columns(columns)
    (left,) = set(marks) - set(columns) if marks else {FIRST_COLUMN}
    if left != FIRST_COLUMN:  # a trial's column that was promoted
        database.need(table).alter_columns({"path": left, "rename": FIRST_COLUMN})
    if columns or left != FIRST_COLUMN:
        database.tag(table, READY, int(database.need(table).version))
    return columns


def _used_encoders(database: Database, table: str) -> set[str]:
    """The marks of the encoders of all stored runs over a documents table."""
    rows = (r for r in list_rows(database) if r["documents_table"] == table)
    return {row["encoder"] or SUPPLIED for row in rows}


def superseded_tables(database: Database, table: str, age: timedelta) -> list[str]:
    """Tables of vectors whose encoder no stored run used, and which nobody wrote for a while."""
    used, gone = _used_encoders(database, table), []
    for name, mark in vector_tables(database, table).items():
        written = max(v["timestamp"].astimezone() for v in database.need(name).list_versions())
        if mark not in used and datetime.now().astimezone() - written > age:
            gone.append(name)
    return sorted(gone)
