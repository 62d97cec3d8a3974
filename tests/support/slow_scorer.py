"""The main job in a process of its own, slowed down so that it can be killed anywhere.

Children are forked from a server that has imported torch once: a process then starts in a moment.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STAGES = {"start": 0, "ingest": 1, "search": 2, "score": 3, "publish": 4}
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["sentence_transformers", "transformers.models.bert.modeling_bert", "ir_measures"]
)


@dataclass(frozen=True)
class Slow:
    """Seconds that a piece of each stage is made to take."""

    ingest: float = 0.0  # per row
    search: float = 0.0  # per chunk
    score: float = 0.0  # per batch
    publish: float = 0.0  # per chunk


def barrier(count: int) -> Any:
    """What `count` jobs wait at, so that they start at the same moment."""
    return _CONTEXT.Barrier(count)


class Job:
    """One process that runs the main job: `command` None through `walk`, else `rescore` itself."""

    def __init__(
        self,
        config: Path,
        slow: Slow = Slow(),  # noqa: B008 - frozen
        *,
        command: list[str] | None = None,
        env: dict[str, str] | None = None,
        log: Path | None = None,
        start: Any = None,
    ) -> None:
        self.stage = _CONTEXT.Value("i", 0)
        self.scored = _CONTEXT.Value("i", 0)
        self.log = log or config.with_suffix(".log")
        arguments = (config, slow, command, env or {}, self.log, start, self.stage, self.scored)
        self.process = _CONTEXT.Process(target=_child, args=arguments, daemon=True)
        self.process.start()

    def reach(self, stage: str, pairs: int = 0, timeout: float = 120.0) -> bool:
        """Wait for a stage and a number of scored pairs; whether the process is still at work."""
        until = time.monotonic() + timeout
        while self.process.is_alive() and time.monotonic() < until:
            if self.stage.value >= STAGES[stage] and self.scored.value >= pairs:
                return True
            time.sleep(0.002)
        return False

    def send(self, number: int) -> None:
        """Send the process a signal."""
        os.kill(self.process.pid or 0, number)

    def end(self, timeout: float = 120.0) -> int:
        """Wait for the end; the exit code, negative for a signal."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, self.said()
        return self.process.exitcode

    def kill_within(self, seconds: float, rng: random.Random) -> int:
        """Kill the process at a random moment of the next seconds; its exit code."""
        self.process.join(rng.uniform(0, seconds))
        if self.process.is_alive():
            self.send(signal.SIGKILL)
        return self.end()

    def said(self) -> str:
        """What the process wrote to stdout and stderr."""
        return self.log.read_text("utf-8", "replace") if self.log.exists() else ""


def _child(
    config: Path,
    slow: Slow,
    command: list[str] | None,
    env: dict[str, str],
    log: Path,
    start: Any,
    stage: Any,
    scored: Any,
) -> None:
    os.environ.update({"HF_HUB_OFFLINE": "1", "LANCE_LOG": "error", **env})
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    import torch

    torch.set_num_threads(1)
    _slow_down(slow, stage, scored)
    if command is None:
        from tests.support.walk import walk_file

        if start is not None:
            start.wait()
        walk_file(config)
        return
    from flows.cli import app

    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["rescore", *command]
    app()


def _slow_down(slow: Slow, stage: Any, scored: Any) -> None:
    """Make every stage tell that it is under way, and take its time."""
    import reranking.corpus.ingest
    import reranking.runs.candidates
    import reranking.runs.publish
    from reranking.scoring.crossencoder import CrossEncoderModel

    def patched(module: Any, name: str, mark: str, seconds: float) -> None:
        original = getattr(module, name)

        def slowed(*args: Any, **options: Any) -> Any:
            stage.value = STAGES[mark]
            time.sleep(seconds)
            return original(*args, **options)

        setattr(module, name, slowed)

    patched(reranking.corpus.ingest, "document_of", "ingest", slow.ingest)
    patched(reranking.runs.candidates, "search_chunk", "search", slow.search)
    patched(reranking.runs.publish, "rank_results", "publish", slow.publish)
    load = CrossEncoderModel.load

    def load_slowly(model: CrossEncoderModel) -> Any:
        scorer = load(model)
        run = scorer.batches

        def dragging(*args: Any) -> Iterator[Any]:
            for batch in run(*args):
                stage.value = max(stage.value, STAGES["score"])
                time.sleep(slow.score)
                scored.value += len(batch[0])
                yield batch

        scorer.batches = dragging  # type: ignore[method-assign]
        return scorer

    CrossEncoderModel.load = load_slowly  # type: ignore[method-assign]
