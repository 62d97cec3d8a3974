"""Score one chunk's pairs; the model and the known scores stay in the process between chunks."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.schema import Config
from reranking.errors import RuntimeFailure
from reranking.rerank import Rescorer
from reranking.runs import Plan
from reranking.scoring.scorer import Scorer
from reranking.store import Database
from tasks.progress import Watcher
from tasks.settings import cross_encoder_of

_resident: dict[tuple[str, str, int], Rescorer] = {}


def rescorer_of(config: Config, plan: Plan) -> Rescorer:
    """This process's Rescorer for the run, made on first use; another run's is let go."""
    key = (plan.database, plan.run_id, plan.epoch)
    if key not in _resident:
        _resident.clear()
        _resident[key] = Rescorer(
            Database(plan.database),
            plan,
            lambda: _load(config, plan),
            commit_seconds=config.execution.commit_seconds,
        )
    return _resident[key]


def _load(config: Config, plan: Plan) -> Scorer:
    """The model, which must still be the one that the run was planned with once it is loaded."""
    model = cross_encoder_of(config)
    assert model is not None
    scorer = model.load()
    now = cross_encoder_of(config)
    if now is None or now.fingerprint.hex() != plan.reranker:
        raise RuntimeFailure(
            f"the model {model.settings.model_name!r} was changed while the run was at work: start "
            "the command again, the changed model makes a new run"
        )
    return scorer


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
