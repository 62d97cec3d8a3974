"""When a configured model is not the promoted run's any more: announce it, reevaluate, gate."""

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
from tasks.watch import announce


@flow(
    name="watch",
    flow_run_name="watch {config.title}",
    task_runner=ThreadPoolTaskRunner(max_workers=2),
    persist_result=False,
)
def watch(config: FlowConfig) -> dict[str, Any]:
    """The changed models and, if there are any, the reevaluation; nothing is loaded otherwise."""

    def tell(changes: list[dict[str, Any]]) -> None:
        announce(config, changes)
        tag_flow_run(config)

    changes, summary = order.watch(Pipeline(config, AsTasks()), tell)
    if summary is None:
        return {"changed": []}
    done = show_reevaluation(summary)
    return {"changed": changes, "reevaluation": order.refuse_failed(done)}
