"""Bring the documents table in line with its source."""

from __future__ import annotations

from typing import Any

from prefect import flow

from configs.deploy import FlowConfig
from reranking import order
from reranking.pipeline import Pipeline
from tasks.artifacts import show_ingest
from tasks.steps import AsTasks
from tasks.tags import tag_flow_run


@flow(name="ingest", flow_run_name="ingest {config.documents.table}", persist_result=False)
def ingest(config: FlowConfig) -> dict[str, Any]:
    """What the ingest did, in rows."""
    tag_flow_run(config)
    report = order.ingest(Pipeline(config, AsTasks()))
    show_ingest(config, report)
    return report
