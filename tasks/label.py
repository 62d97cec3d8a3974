"""Label a finished run's pairs by the config's rule; no model is loaded."""

from __future__ import annotations

import time
from typing import Any

import pyarrow.compute as pc
from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from configs.schema import Config
from reranking.labelling.label_run import Bench, Labelled, bench, label_run
from tasks.labelling import (
    agreement_values,
    bench_values,
    label_settings,
    open_database,
    run_of,
)
from tasks.retries import may_pass

_SHOWN = 20


@task(
    name="label-run",
    cache_policy=NO_CACHE,
    retries=1,
    retry_delay_seconds=5,
    retry_condition_fn=may_pass,
)
def label_stored_run(config: Config, run: str | None = None) -> dict[str, Any]:
    """Store the labels unless they are there; what was found, JSON-like.

    Status `done`, `found` (the same label set was there already), or `not demonstrable`: the goal
    that should be applied is not reached, and nothing is labelled.
    """
    started = time.monotonic()
    database = open_database(config)
    of = bench(database, run_of(database, config, run), label_settings(database, config))
    values = bench_values(of)
    if of.settings.apply in of.refused:
        said = {"status": "not demonstrable", "label_set": None}
    else:
        said = _labelled_values(label_run(database, of), of)
    return {**said, **values, "seconds": round(time.monotonic() - started, 3)}


def _labelled_values(done: Labelled, of: Bench) -> dict[str, Any]:
    said = done.labels.column("label")
    return {
        "status": "done" if done.computed else "found",
        "label_set": done.label_set,
        "rule": done.rule.name,
        "labels": {
            "positive": pc.sum(pc.greater_equal(said, 1)).as_py() or 0,
            "negative": pc.sum(pc.equal(said, 0)).as_py() or 0,
            "unsure": said.null_count,
        },
        "conflicts": done.conflicts.num_rows,
        "first_conflicts": done.conflicts.slice(0, _SHOWN).to_pylist(),
        "agreement": None if done.against is None else agreement_values(done.against),
    }


def show_labels(values: dict[str, Any]) -> None:
    """Post the rules side by side as a table artifact."""
    names = ("rule", "positive", "negative", "unsure", "precision", "recall")
    create_table_artifact(
        [{name: row[name] for name in names} for row in values["rules"]],
        key="label-rules",
        description=f"Label set {values['label_set'] or 'none'} ({values['status']})",
    )
