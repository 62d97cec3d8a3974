"""The flow's steps in the flow's order, without Prefect: tasks are called as plain functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.load import load_config
from configs.schema import Config
from reranking.runs.run import Run
from reranking.store import Database
from tasks.evaluate import evaluate
from tasks.ingest import ingest_documents
from tasks.load import load_judgments, load_queries
from tasks.plan import check, plan
from tasks.publish import publish, publish_table, recall
from tasks.rerank import score_chunk
from tasks.search import search_chunk, store_ranking


def walk(config: Config, *, force: bool = False, ingest: bool = True) -> tuple[Run, dict[str, Any]]:
    """Run the main job; the plan and the final counts ({} where the run was finished before)."""
    check(config)
    if ingest:
        ingest_documents.fn(config)
    load_queries.fn(config)
    load_judgments.fn(config)
    run = plan.fn(config, force)
    store_ranking.fn(config, run)
    counts: dict[str, Any] = {}
    if not run.finished:
        scored = {"pairs": 0, "scored": 0, "path": None}
        for chunk in run.chunks:
            search_chunk.fn(config, run, chunk)
            report = score_chunk.fn(config, run, chunk)
            scored["pairs"] += report["pairs"]
            scored["scored"] += report["scored"]
            scored["path"] = report["path"]
        counts = publish.fn(config, run, scored, {})
    else:
        recall.fn(run)
    publish_table.fn(config, run)
    evaluate.fn(config, run)
    return run, counts


def walk_file(path: Path, *overrides: str, **options: Any) -> tuple[Run, dict[str, Any]]:
    """`walk` on a config file."""
    return walk(load_config(path, overrides), **options)


def database_of(run: Run) -> Database:
    """The run's database."""
    return run.database
