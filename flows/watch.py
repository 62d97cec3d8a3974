"""When a configured model is not the promoted run's any more: announce it, reevaluate, gate."""

from __future__ import annotations

from typing import Any

from prefect import flow

from configs.deploy import FlowConfig
from tasks.reevaluate import reevaluate
from tasks.watch import announce, changed_models


@flow(name="watch", flow_run_name="watch {config.title}", persist_result=False)
def watch(config: FlowConfig) -> dict[str, Any]:
    """The changed models and, if there are any, the reevaluation; nothing is loaded otherwise."""
    changes = changed_models(config)
    if not changes:
        return {"changed": []}
    announce(config, changes)
    return {"changed": changes, "reevaluation": reevaluate(config)}
