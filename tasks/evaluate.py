"""Measure a published run on its judgment list."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.schema import Config
from reranking.evaluation.evaluate_run import evaluate_run, means
from reranking.runs.run import Run


@task(name="evaluate-run", cache_policy=NO_CACHE)
def evaluate(config: Config, plan: Run) -> list[dict[str, Any]]:
    """Means per query type, stage and measure; empty where the config names no judgments."""
    if config.judgments is None:
        return []
    done = evaluate_run(
        plan.database, plan, config.judgments.judgment_list, config.judgments.measures
    )
    return means(done.metrics).to_pylist()
