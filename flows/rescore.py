"""The main job: ingest what changed, search, rerank, publish, evaluate."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from configs.deploy import FlowConfig
from tasks.evaluate import evaluate
from tasks.gate import check_gates, passed, refuse_failed
from tasks.ingest import ingest_documents
from tasks.introduce import tag_flow_run
from tasks.load import load_judgments, load_queries
from tasks.plan import check, plan
from tasks.publish import publish, publish_table, recall
from tasks.report import write_report
from tasks.search import store_ranking
from tasks.shards import work_on_chunks
from tasks.show import show_run
from tasks.summary import Summary


@flow(
    name="rescore",
    flow_run_name="rescore {config.title}",
    task_runner=ThreadPoolTaskRunner(max_workers=2),
    persist_result=False,
)
def rescore(config: FlowConfig, force: bool = False) -> dict[str, Any]:
    """What the run did: its id, results table, counts, seconds per stage and measures."""
    check(config)
    tag_flow_run(config)
    summary = Summary(config)
    with summary.timed("ingest"):
        summary.ingested(ingest_documents(config))
        summary.rejected(load_queries(config))
        summary.rejected(load_judgments(config)["rejected"])
    run = plan(config, force)
    summary.rejected(store_ranking(config, run))
    if run.finished:
        summary.repeated(run, recall(run))
    else:
        for report in work_on_chunks(config, run):
            summary.worked(report)
        with summary.timed("publish"):
            summary.published(run, publish(config, run, summary.counts, summary.seconds))
    with summary.timed("evaluate"):
        summary.evaluated(evaluate(config, run))
        summary.gated(check_gates(config, run))
        summary.reported(write_report(config, run))
    if passed(summary.gates):
        summary.served(publish_table(config, run))
    return refuse_failed(show_run(summary))
