"""When a configured model is not the promoted run's any more: announce it, reevaluate, gate."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from configs.deploy import FlowConfig
from reranking import order
from reranking.pipeline import Pipeline
from reranking.reevaluation import changed_models
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
    pipeline = Pipeline(config, AsTasks())
    changes = pipeline.executor.call(changed_models, pipeline)
    if not changes:
        return {"changed": []}
    announce(config, changes)
    tag_flow_run(config)
    done = show_reevaluation(order.reevaluate(pipeline))
    return {"changed": changes, "reevaluation": order.refuse_failed(done)}
