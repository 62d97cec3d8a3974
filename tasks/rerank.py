"""Score one chunk's pairs; the model and the known scores stay in the process between chunks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.schema import Config
from reranking.errors import RuntimeFailure
from reranking.runs.refine import Refined, Refiner
from reranking.runs.rerank import Rescorer
from reranking.runs.run import Run
from reranking.scoring.crossencoder import CrossEncoderModel
from reranking.scoring.scorer import Scorer
from tasks.progress import Watcher
from tasks.settings import cross_encoder_of, refiner_of


@dataclass(frozen=True)
class Resident:
    """What stays in the process: the Rescorer, and what refines after it where the run does."""

    rescorer: Rescorer
    refiner: Refiner | None

    @property
    def seconds(self) -> float:
        """Seconds in the models so far."""
        exact = 0.0 if self.refiner is None else self.refiner.exact.seconds
        return self.rescorer.seconds + exact


_resident: dict[tuple[int, str, str, int], Resident] = {}
_loading = threading.Lock()


def resident(config: Config, plan: Run) -> Resident:
    """This thread's Rescorer for the run, made on first use; another run's is let go."""
    thread = threading.get_ident()
    key = (thread, plan.database.uri, plan.run_id, plan.epoch)
    if key not in _resident:
        for other in [k for k in list(_resident) if k[0] == thread]:
            del _resident[other]
        first = _rescorer(config, plan, cross_encoder_of, plan.reranker)
        refiner = None
        if plan.refiner is not None:
            refiner = Refiner(first, _rescorer(config, plan, refiner_of, plan.refiner))
        _resident[key] = Resident(first, refiner)
    return _resident[key]


def take_over(config: Config, plan: Run, refined: Mapping[int, Mapping[str, Any] | None]) -> None:
    """Forget scores that were known before workers added theirs; know what they refined, by chunk.

    Whoever asks for the run's Rescorer then reads the stored scores anew.
    """
    _resident.clear()
    refiner = resident(config, plan).refiner if plan.refiner is not None else None
    if refiner is not None:
        refiner.chunks = {chunk: Refined(**found) for chunk, found in refined.items() if found}


Find = Callable[[Config], CrossEncoderModel | None]


def _rescorer(config: Config, plan: Run, find: Find, fingerprint: str | None) -> Rescorer:
    return Rescorer(
        plan,
        lambda: _load(config, find, fingerprint),
        reranker=fingerprint,
        commit_seconds=config.execution.commit_seconds,
    )


def _load(config: Config, find: Find, fingerprint: str | None) -> Scorer:
    """The model, which must still be the one that the run was planned with once it is loaded."""
    model = find(config)
    assert model is not None
    with _loading:  # transformers loads one model at a time
        scorer = model.load()
    now = find(config)
    if now is None or now.fingerprint.hex() != fingerprint:
        raise RuntimeFailure(
            f"the model {model.settings.model_name!r} was changed while the run was at work: start "
            "the command again, the changed model makes a new run"
        )
    return scorer


@task(name="score-chunk", cache_policy=NO_CACHE)
def score_chunk(config: Config, plan: Run, chunk: int) -> dict[str, Any]:
    """Score the chunk's pairs that have no score; counts, seconds, and the path that scored."""
    if plan.reranker is None:
        nothing = {"path": None, "refined": None}
        return {"pairs": 0, "scored": 0, "seconds": 0.0, "forward": 0.0, **nothing}
    started = time.monotonic()
    found = resident(config, plan)
    rescorer, before = found.rescorer, found.seconds
    with Watcher("pairs") as progress:
        rescorer.progress = progress
        counts = rescorer.score_chunk(chunk)
    refined = None
    if found.refiner is not None:
        with Watcher("pairs in float32") as progress:
            found.refiner.exact.progress = progress
            refined = asdict(found.refiner.refine_chunk(chunk))
    return {
        **asdict(counts),
        "seconds": time.monotonic() - started,
        "forward": found.seconds - before,
        "path": None if rescorer.scorer is None else rescorer.scorer.path,
        "refined": refined,
    }
