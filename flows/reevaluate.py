"""Another model on the stored candidates: scored, compared with the promoted run, gated."""

from __future__ import annotations

from typing import Any

from prefect import flow

from configs.deploy import FlowConfig
from tasks.reevaluate import reevaluate as steps


@flow(name="reevaluate", flow_run_name="reevaluate {config.title}", persist_result=False)
def reevaluate(config: FlowConfig) -> dict[str, Any]:
    """What was scored, the measures, the gates and the comparison with the promoted run."""
    return steps(config)
