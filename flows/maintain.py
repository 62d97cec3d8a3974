"""Look after the database: forget old runs, tidy scores, sweep leftovers, compact, prune."""

from __future__ import annotations

from typing import Any

from prefect import flow

from configs.deploy import FlowConfig
from reranking import order
from reranking.pipeline import Pipeline
from tasks.artifacts import show_maintenance
from tasks.steps import AsTasks


@flow(name="maintain", persist_result=False)
def maintain(config: FlowConfig, dry_run: bool = False) -> dict[str, Any]:
    """What maintenance did, or would do in a dry run."""
    report = order.maintain(Pipeline(config, AsTasks()), dry_run)
    show_maintenance(report)
    return report
