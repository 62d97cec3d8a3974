"""Look after the database: forget old runs, tidy scores, sweep leftovers, compact, prune."""

from __future__ import annotations

from typing import Any

from prefect import flow

from configs.deploy import FlowConfig
from reranking.maintenance import maintain_database
from reranking.pipeline import Pipeline
from tasks.artifacts import show_maintenance
from tasks.steps import AsTasks


@flow(name="maintain", persist_result=False)
def maintain(config: FlowConfig, dry_run: bool = False) -> dict[str, Any]:
    """What maintenance did, or would do in a dry run."""
    pipeline = Pipeline(config, AsTasks())
    report = pipeline.executor.call(maintain_database, pipeline, dry_run)
    show_maintenance(report)
    return report
