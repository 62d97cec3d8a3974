"""Publish a run's results: whole, in one commit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.schema import Config
from reranking.runs.plan import finish_run
from reranking.runs.publish import publish_for_consumers, publish_results, run_counts
from reranking.runs.run import Run, find_run
from tasks.rerank import resident
from tasks.retries import may_pass


@task(
    name="publish-results",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[5, 30],
    retry_condition_fn=may_pass,
)
def publish(
    config: Config, plan: Run, counts: Mapping[str, Any], seconds: Mapping[str, float]
) -> dict[str, float]:
    """Write the results table and mark the run as done; the run's final counts."""
    scored = None if plan.reranker is None else resident(config, plan)
    refiner = None if scored is None else scored.refiner
    publish_results(
        plan,
        None if scored is None else scored.rescorer.store,
        None if refiner is None else refiner.exact.store,
    )
    final: dict[str, float] = dict(run_counts(plan, counts["pairs"], counts["scored"]))
    if refiner is not None:
        final |= refiner.counts()
    finish_run(plan, final, seconds, counts["path"])
    return final


@task(
    name="publish-for-consumers",
    cache_policy=NO_CACHE,
    retries=1,
    retry_delay_seconds=5,
    retry_condition_fn=may_pass,
)
def publish_table(config: Config, plan: Run) -> str | None:
    """Bring the table of the stable name up to date, where the config asks for one; its name."""
    wanted = config.results
    if wanted.publish is not None:
        publish_for_consumers(plan, wanted.publish, wanted.columns)
    return wanted.publish


@task(name="recall-run", cache_policy=NO_CACHE)
def recall(plan: Run) -> dict[str, int]:
    """The counts of a finished run: nothing of it is computed again.

    A process that was killed between publishing and marking the run as done left no counts.
    """
    counts = dict(find_run(plan.database, plan.run_id).stored["counts"])
    if not counts:
        counts = run_counts(plan, None, 0)
        finish_run(plan, counts, {}, None)
    return counts | {"scored": 0, "reused": counts.get("pairs", 0)}
