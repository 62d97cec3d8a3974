"""The main job as tests run it: the order of the library, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from configs.load import load_config
from configs.schema import Config
from reranking import order
from reranking.pipeline import Pipeline
from reranking.progress import unwatched
from reranking.runs.run import Run
from reranking.steps import Executor, Here
from reranking.store import Database


def walk(
    config: Config,
    *,
    force: bool = False,
    ingest: bool = True,
    executor: Executor | None = None,
) -> tuple[Run, dict[str, Any]]:
    """Run the main job; the run and its final counts ({} if it was finished before)."""
    pipeline = Pipeline(config, executor or Here(unwatched))
    if not ingest:
        pipeline.ingest = dict  # type: ignore[method-assign, assignment]
    summary = order.rescore(pipeline, force=force)
    assert summary.run is not None
    counts = {k: v for k, v in summary.counts.items() if k != "path"}
    return summary.run, {} if summary.finished_before else counts


def walk_file(path: Path, *overrides: str, **options: Any) -> tuple[Run, dict[str, Any]]:
    """`walk` on a config file."""
    return walk(load_config(path, overrides), **options)


def database_of(run: Run) -> Database:
    """The run's database."""
    return run.database
