"""Several models on one corpus and query set, one after the other, in one table."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from configs.deploy import FlowConfig
from reranking import order
from reranking.pipeline import Pipeline
from tasks.artifacts import show_bakeoff
from tasks.steps import AsTasks
from tasks.tags import tag_flow_run


@flow(
    name="bakeoff",
    flow_run_name="bakeoff {config.title}",
    task_runner=ThreadPoolTaskRunner(max_workers=2),
    persist_result=False,
)
def bakeoff(
    config: FlowConfig, rerankers: list[str] | None = None, encoders: list[str] | None = None
) -> dict[str, Any]:
    """Each model's quality, speed, size and cost, compared with the first one.

    Runs that are finished are found, so a bake-off that was stopped goes on where it was.
    """
    tag_flow_run(config)
    made = order.bakeoff(Pipeline(config, AsTasks()), rerankers or (), encoders or ())
    show_bakeoff(made)
    return made
