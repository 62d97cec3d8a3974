"""The stored runs of a database: listed, found by their ids, told apart by their pipelines."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from configs.schema import Config
from reranking.errors import MissingResource, nearest
from reranking.runs.rows import TABLE, RunRow, decoded
from reranking.runs.run import Run, published_epoch, results_name
from reranking.runs.settings import (
    PipelineName,
    changes,
    pipeline_of,
    pipeline_of_row,
    settings_digest,
    settings_of_json,
)
from reranking.store import Database, one_of

log = logging.getLogger(__name__)

_SAID: Final = {"failed", "stopped"}  # by a process that ended in order
_WAITING: Final = {"to be continued"}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def list_runs(database: Database) -> list[Run]:
    """Return all runs, newest first, with their status as the tables say it.

    `done` if results are published, also while they are made anew (`forced`); `failed` or `stopped`
    if the process could say so; `abandoned` if a later run of the same settings has begun (its
    inputs changed meanwhile); `to be continued` if a limit of its config ended its work; else
    `running`: at work, or killed and waiting to be continued, since `committed_at`.
    """
    return [Run.of_row(database, row) for row in list_rows(database)]


def list_rows(database: Database) -> list[RunRow]:
    """Return the rows of `list_runs` alone."""
    rows = [decoded(row) for row in database.read(TABLE).to_pylist()]
    names = set(database.names())
    newest: dict[str, datetime] = {}
    for row in rows:
        settings = settings_of_json(row["config_json"])
        newest[settings] = max(row["started_at"], newest.get(settings, _EPOCH))
    unfinished = []
    for row in rows:
        published = _published(database, row, names)
        if published is not None:
            if published >= row["epoch"]:
                row["failure"] = None
            else:
                row["forced"] = row["status"] if row["status"] in _SAID | _WAITING else "running"
                unfinished.append(row)
            row["status"] = "done"
            continue
        unfinished.append(row)
        later = row["started_at"] < newest[settings_of_json(row["config_json"])]
        if row["status"] not in _SAID | (set() if later else _WAITING):
            row["status"] = "abandoned" if later else "running"
    _date_commits(database, unfinished)
    return sorted(rows, key=lambda r: r["started_at"], reverse=True)


def _date_commits(database: Database, rows: list[RunRow]) -> None:
    """Say of unfinished runs when they last committed anything: candidates or scores."""
    if not rows:
        return
    searches = one_of("search_id", sorted({row["search_id"] for row in rows}))
    marks = database.read("searches", searches, ["search_id", "searched_at"]).to_pylist()
    for row in rows:
        times = [m["searched_at"] for m in marks if m["search_id"] == row["search_id"]]
        times += [t for t in (row["committed_at"], row["started_at"]) if t is not None]
        row["committed_at"] = max(times)


def _published(database: Database, row: Mapping[str, Any], names: set[str]) -> int | None:
    """The epoch of the results, None if there are none; a name alone may be a killed publisher's.

    They are of an earlier epoch than the row while a done run is being scored again.
    """
    if results_name(row["run_id"]) not in names:
        return None
    if row["status"] == "done":
        return int(row["epoch"])
    try:
        return published_epoch(database, row["run_id"])
    except MissingResource:  # somebody else's table of that name
        return None


def find_run(database: Database, run: str) -> Run:
    """Return the run whose id is, or begins with, `run`.

    Raises MissingResource if there is none or several.
    """
    rows = list_rows(database)
    matching = [r for r in rows if r["run_id"].startswith(run)] if run else []
    if len(matching) != 1:
        known = ", ".join(r["run_id"][:8] for r in rows[:10]) or "none"
        what = "no run" if not matching else f"{len(matching)} runs"
        raise MissingResource(f"{what} {run!r} in {database.uri} (newest: {known})")
    return Run.of_row(database, matching[0])


def of_query_set(run: Run, query_set: str | None) -> Run:
    """Return the run for one query set alone; None: as it is.

    Raises MissingResource if the set is not stored or the run has none of its queries.
    """
    if query_set is None:
        return run
    if query_set not in run.sets and run.sets:
        raise MissingResource(
            f"run {run.run_id[:8]} is of the query sets {', '.join(run.sets)}, not "
            f"{query_set!r}{nearest(query_set, run.sets)}"
        )
    made = run.of_set(query_set)
    if not made.query_rows.num_rows:
        raise MissingResource(f"run {run.run_id[:8]} has no query of query set {query_set!r}")
    return made


def done_runs(database: Database, pipeline: PipelineName | None = None) -> list[Run]:
    """Return the finished runs, newest first; of one pipeline if it is given."""
    return [
        Run.of_row(database, row)
        for row in list_rows(database)
        if row["status"] == "done" and (pipeline is None or pipeline.includes(pipeline_of_row(row)))
    ]


def newest_done(database: Database, config: Config) -> Run:
    """Return the newest finished run of the config's pipeline, of its own settings if there is one.

    Raises MissingResource if the pipeline has no finished run; what the run has otherwise than the
    config is logged.
    """
    runs = done_runs(database, pipeline_of(config))
    if not runs:
        raise MissingResource(
            f"no finished run of this config's pipeline ({pipeline_of(config)}) in {database.uri}: "
            "start `rescore run` first, or name another run with --run (`rescore runs` lists them)"
        )
    settings = settings_digest(config)
    own = [r for r in runs if settings_of_json(r.stored["config_json"]) == settings]
    chosen = (own or runs)[0]
    if not own:
        log.warning(
            "run %s is taken, the newest finished one of %s: none has the config's own settings "
            "(`rescore run` makes one; --run names another)",
            *(chosen.run_id[:8], pipeline_of(config)),
        )
    elif own[0].run_id != runs[0].run_id:
        log.info(
            "run %s is taken, the newest of the config's own settings; %s is newer, with %s",
            *(chosen.run_id[:8], runs[0].run_id[:8]),
            "; ".join(changes(chosen.stored, runs[0].stored)) or "other inputs",
        )
    return chosen
