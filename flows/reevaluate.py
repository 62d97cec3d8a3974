"""Another model on the stored candidates: scored, compared with the promoted run, gated."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from configs.deploy import FlowConfig
from reranking import order
from reranking.pipeline import Pipeline
from tasks.artifacts import show_reevaluation
from tasks.steps import AsTasks
from tasks.tags import tag_flow_run


@flow(
    name="reevaluate",
    flow_run_name="reevaluate {config.title}",
    task_runner=ThreadPoolTaskRunner(max_workers=2),
    persist_result=False,
)
def reevaluate(config: FlowConfig) -> dict[str, Any]:
    """What was scored, the measures, the gates and the comparison with the promoted run.

    Raises GateFailed, with all that in its `values`, if the config's gates fail.
    """
    tag_flow_run(config)
    summary = order.reevaluate(Pipeline(config, AsTasks()))
    return order.refuse_failed(show_reevaluation(summary))
