"""The runs of one pipeline over time, and a measure over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reranking.evaluation.evaluate_run import evaluate_run, means
from reranking.runs.run import Run
from reranking.store import Database


def history(
    database: Database, runs: Sequence[Run], judgment_list: str, measure: str
) -> list[dict[str, Any]]:
    """The measure's means of each run, oldest run first, one row per query type.

    All on the grades that hold today: what an earlier night did not measure is measured now.
    `change` is the difference to the run before it of the same pipeline and query type, of the
    last stage; it is null where the runs do not rest on the same judged queries.
    """
    rows: list[dict[str, Any]] = []
    before: dict[tuple[str, str], dict[str, Any]] = {}
    for run in sorted(runs, key=lambda r: r.stored["started_at"]):
        done = evaluate_run(database, run, judgment_list, [measure])
        for mean in means(done.metrics).to_pylist():
            if mean["measure"] != measure:
                continue
            value = mean["first"] if mean["reranked"] is None else mean["reranked"]
            key = (run.stored["pipeline"], mean["query_type"])
            last = before.get(key)
            same = last is not None and last["judgments"] == done.judgments_fp
            row = {
                "run_id": run.run_id,
                "pipeline": run.stored["pipeline"],
                "started_at": run.stored["started_at"],
                "reranker_model": run.stored["reranker_model"],
                "judgments": done.judgments_fp,
                **mean,
                "value": value,
                "change": value - last["value"] if last is not None and same else None,
            }
            before[key] = row
            rows.append(row)
    return rows
