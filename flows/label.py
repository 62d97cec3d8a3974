"""Labels from stored scores: import judgments, calibrate, compare rules, apply one."""

from __future__ import annotations

from typing import Any

from prefect import flow

from configs.deploy import FlowConfig
from reranking import order
from reranking.pipeline import Pipeline
from tasks.artifacts import show_labels
from tasks.steps import AsTasks
from tasks.tags import tag_flow_run


@flow(name="label", flow_run_name="label {config.title}", persist_result=False)
def label(config: FlowConfig, run: str | None = None) -> dict[str, Any]:
    """The label set, what its rule and the others do, and where people disagree."""
    tag_flow_run(config)
    values = order.label(Pipeline(config, AsTasks()), run)
    show_labels(values)
    return values
