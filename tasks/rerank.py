"""Score one chunk's pairs; the model and the known scores stay in the process between chunks."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.schema import Config
from reranking.rerank import Rescorer
from reranking.runs import Plan
from reranking.store import Database
from tasks.progress import Watcher
from tasks.settings import cross_encoder_of

_resident: dict[tuple[str, str, int], Rescorer] = {}


def rescorer_of(config: Config, plan: Plan) -> Rescorer:
    """This process's Rescorer for the run, made on first use; another run's is let go."""
    key = (plan.database, plan.run_id, plan.epoch)
    if key not in _resident:
        model = cross_encoder_of(config)
        assert model is not None
        _resident.clear()
        _resident[key] = Rescorer(
            Database(plan.database),
            plan,
            model.load,
            commit_seconds=config.execution.commit_seconds,
        )
    return _resident[key]


@task(name="score-chunk", cache_policy=NO_CACHE)
def score_chunk(config: Config, plan: Plan, chunk: int) -> dict[str, Any]:
    """Score the chunk's pairs that have no score; counts, seconds, and the path that scored."""
    if plan.reranker is None:
        return {"pairs": 0, "scored": 0, "seconds": 0.0, "forward": 0.0, "path": None}
    started = time.monotonic()
    rescorer = rescorer_of(config, plan)
    before = rescorer.seconds
    with Watcher("pairs") as progress:
        rescorer.progress = progress
        counts = rescorer.score_chunk(chunk)
    return {
        **asdict(counts),
        "seconds": time.monotonic() - started,
        "forward": rescorer.seconds - before,
        "path": None if rescorer.scorer is None else rescorer.scorer.path,
    }
