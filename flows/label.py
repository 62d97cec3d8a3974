"""Labels from stored scores: import judgments, calibrate, compare rules, apply one."""

from __future__ import annotations

from typing import Any

from prefect import flow

from configs.deploy import FlowConfig
from tasks.introduce import tag_flow_run
from tasks.label import label_stored_run, show_labels
from tasks.load import load_judgments


@flow(name="label", flow_run_name="label {config.title}", persist_result=False)
def label(config: FlowConfig, run: str | None = None) -> dict[str, Any]:
    """The label set, what its rule and the others do, and where people disagree."""
    tag_flow_run(config)
    rejected = load_judgments(config)["rejected"]
    values = label_stored_run(config, run) | {"rejected": rejected}
    show_labels(values)
    return values
