"""The runs of one pipeline over time, and a measure over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reranking.errors import MissingResource
from reranking.evaluation.evaluate_run import evaluate_run, means
from reranking.runs.run import list_runs, plan_of
from reranking.store import Database


def done_runs(database: Database, pipeline: str | None = None) -> list[dict[str, Any]]:
    """The finished runs, newest first; of one pipeline if it is given."""
    rows = (row for row in list_runs(database) if row["status"] == "done")
    return [row for row in rows if pipeline is None or row["pipeline"] == pipeline]


def newest_done(database: Database, pipeline: str) -> dict[str, Any]:
    """The newest finished run of a pipeline; raises MissingResource where there is none."""
    rows = done_runs(database, pipeline)
    if not rows:
        raise MissingResource(
            f"no finished run of this config in {database.uri}: start `rescore run` first, or name "
            "another run with --run (`rescore runs` lists them)"
        )
    return rows[0]


def history(
    database: Database, runs: Sequence[dict[str, Any]], judgment_list: str, measure: str
) -> list[dict[str, Any]]:
    """The measure's means of each run, oldest run first, one row per query type.

    All on the grades that hold today: what an earlier night did not measure is measured now.
    `change` is the difference to the run before it of the same pipeline and query type, of the
    last stage; it is null where the runs do not rest on the same judged queries.
    """
    rows: list[dict[str, Any]] = []
    before: dict[tuple[str, str], dict[str, Any]] = {}
    for run in sorted(runs, key=lambda r: r["started_at"]):
        done = evaluate_run(database, plan_of(run), judgment_list, [measure])
        for mean in means(done.metrics).to_pylist():
            if mean["measure"] != measure:
                continue
            value = mean["first"] if mean["reranked"] is None else mean["reranked"]
            key = (run["pipeline"], mean["query_type"])
            last = before.get(key)
            same = last is not None and last["judgments"] == done.judgments_fp
            row = {
                "run_id": run["run_id"],
                "pipeline": run["pipeline"],
                "started_at": run["started_at"],
                "reranker_model": run["reranker_model"],
                "judgments": done.judgments_fp,
                **mean,
                "value": value,
                "change": value - last["value"] if last is not None and same else None,
            }
            before[key] = row
            rows.append(row)
    return rows
