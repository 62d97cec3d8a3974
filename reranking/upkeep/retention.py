"""How long a run is kept, and what goes with it when it is forgotten."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from configs.schema import Keep
from reranking.errors import ConfigError
from reranking.runs.listing import find_run
from reranking.runs.plan import tag_of
from reranking.runs.promotion import promoted_names
from reranking.runs.rows import TABLE
from reranking.runs.run import published_epoch, results_name
from reranking.store import Database, equals

log = logging.getLogger(__name__)

AT_WORK = timedelta(days=1)  # an unfinished run that began within it may still be running


def forget_run(database: Database, run: str) -> str:
    """Drop a run with its results, candidates, metrics and tags; its whole id.

    Raises MissingResource for an unknown run, ConfigError where something still rests on the run.
    Killed half-way, it can be repeated: the row in `runs` goes last.
    """
    row = find_run(database, run).stored
    if reasons := held_runs(database).get(row["run_id"]):
        raise ConfigError(f"run {row['run_id'][:8]} is kept: {'; '.join(reasons)}")
    drop_run(database, row)
    return str(row["run_id"])


def drop_run(database: Database, row: Mapping[str, Any]) -> None:
    """Drop the run of a row of `runs`, and its search where no other run shares it."""
    run_id, search_id = str(row["run_id"]), str(row["search_id"])
    published_epoch(database, run_id)  # raises where a table of that name is somebody else's
    database.drop(results_name(run_id))
    database.delete("metrics", equals("run_id", run_id))
    if search_id not in searches_of_runs(database, without=run_id):
        drop_search(database, search_id)
    vectors = json.loads(row["plan_json"])["corpus"].get("vectors_table")
    for table in {str(row["documents_table"]), "queries", vectors} - {None}:
        database.untag(table, tag_of(run_id))
    database.delete(TABLE, equals("run_id", run_id))
    log.info("forgot run %s", run_id)


def drop_search(database: Database, search_id: str) -> None:
    """Drop a search's marks, then its candidates: a run that meets the gap searches again.

    What its index was measured to lose goes with it.
    """
    database.delete("searches", equals("search_id", search_id))
    database.delete("candidates", equals("search_id", search_id))
    database.delete("recalls", equals("search_id", search_id))


def searches_of_runs(database: Database, without: str | None = None) -> set[str]:
    """The search ids that the stored runs name, one run left out if it is given."""
    rows = database.read(TABLE, columns=["run_id", "search_id"]).to_pylist()
    return {str(r["search_id"]) for r in rows if r["run_id"] != without}


def held_runs(database: Database) -> dict[str, list[str]]:
    """Why runs must not be forgotten, by run id: promoted, or under a label set."""
    held: dict[str, list[str]] = {}
    for run_id, names in promoted_names(database).items():
        held.setdefault(run_id, []).append(
            f"it is promoted as {', '.join(names)}; promote another run first"
        )
    for row in database.read("label_sets", columns=["label_set", "runs"]).to_pylist():
        for run_id in row["runs"]:
            held.setdefault(run_id, []).append(f"label set {row['label_set']} rests on it")
    return held


def unfinished_runs(database: Database, rows: Iterable[Mapping[str, Any]]) -> set[str]:
    """The runs whose results are not published, or not yet those of their newest epoch."""
    return {
        str(row["run_id"])
        for row in rows
        if (published_epoch(database, row["run_id"]) or 0) < row["epoch"] or row["status"] != "done"
    }


def runs_to_drop(
    rows: Iterable[Mapping[str, Any]],
    keep: Keep,
    now: datetime,
    *,
    held: Iterable[str] = (),
    unfinished: Iterable[str] = (),
) -> list[Mapping[str, Any]]:
    """The rows of `runs` that `keep` lets go, oldest first. Pure.

    Runs count by their settings: a what-if, or another model, takes no place of the nightly runs.
    Held runs stay, and count among the newest. An unfinished run stays while no later run of its
    settings has begun, and for a day in any case: it may be at work.
    """
    kept, waiting = set(held), set(unfinished)
    begun: set[str] = set()
    finished: Counter[str] = Counter()
    dropped: list[Mapping[str, Any]] = []
    for row in sorted(rows, key=lambda r: (r["started_at"], r["run_id"]), reverse=True):
        settings, age = row["settings"], now - row["started_at"]
        if row["run_id"] in waiting:
            stays = settings not in begun or age < AT_WORK
        else:
            finished[settings] += 1
            stays = finished[settings] <= keep.runs
        begun.add(settings)
        if not (stays or age < timedelta(days=keep.days) or row["run_id"] in kept):
            dropped.append(row)
    return dropped[::-1]
