"""Look after the database: forget old runs, tidy scores, sweep leftovers, compact, prune."""

from __future__ import annotations

from typing import Any

from prefect import flow

from configs.deploy import FlowConfig
from reranking import order
from reranking.pipeline import Pipeline
from tasks.artifacts import show_maintenance
from tasks.logs import show_lines
from tasks.steps import AsTasks


@flow(name="maintain", persist_result=False)
def maintain(
    config: FlowConfig, dry_run: bool = False, older_than: float | None = None
) -> dict[str, Any]:
    """What maintenance did, or would do in a dry run; versions of so many seconds are pruned."""
    show_lines()
    report = order.maintain(Pipeline(config, AsTasks()), dry_run, older_than)
    show_maintenance(report)
    return report
