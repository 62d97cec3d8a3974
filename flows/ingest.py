"""Bring the documents table in line with its source."""

from __future__ import annotations

from typing import Any

from prefect import flow

from configs.deploy import FlowConfig
from tasks.ingest import ingest_documents
from tasks.introduce import tag_flow_run
from tasks.show import show_ingest


@flow(name="ingest", flow_run_name="ingest {config.documents.table}", persist_result=False)
def ingest(config: FlowConfig) -> dict[str, Any]:
    """What the ingest did, in rows."""
    tag_flow_run(config)
    report = ingest_documents(config)
    show_ingest(config, report)
    return report
