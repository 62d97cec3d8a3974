"""The main job: ingest what changed, search, rerank, publish, evaluate."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from configs.deploy import FlowConfig
from reranking import order
from reranking.errors import ToBeContinued
from reranking.pipeline import Pipeline
from tasks.artifacts import show_run
from tasks.steps import WAITING, AsTasks
from tasks.tags import tag_flow_run


@flow(
    name="rescore",
    flow_run_name="rescore {config.title}",
    task_runner=ThreadPoolTaskRunner(max_workers=2),
    persist_result=False,
)
def rescore(config: FlowConfig, force: bool = False, serve: bool = True) -> dict[str, Any]:
    """What the run did: its id, results table, counts, seconds per stage and measures.

    Without `serve` the table for consumers is left as it is. Work that a limit of the config ended
    is Completed under a name of its own: nothing failed, and the next start goes on.

    The order of the steps is `reranking.order.rescore`; each of them is a task here.
    """
    tag_flow_run(config)
    try:
        summary = order.rescore(Pipeline(config, AsTasks()), force=force, serve=serve)
    except ToBeContinued as stopped:
        ended: Any = Completed(name=WAITING, message=str(stopped), data=stopped.values)
        return ended
    return order.refuse_failed(show_run(summary))
