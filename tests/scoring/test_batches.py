"""Batches of a scorer: sizes, lack of memory, failing kernels, lost devices."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from reranking.errors import RuntimeFailure
from reranking.scoring.scorer import PairScorer

torch = pytest.importorskip("torch")

from reranking.scoring import results  # noqa: E402


class FakeJob:
    """The logit of a pair is its position; more than `room` tokens at once do not fit."""

    tokens = None
    device = torch.device("cpu")

    def __init__(self, lengths: Sequence[int], room: int) -> None:
        self.lengths = np.asarray(lengths)
        self.room = room
        self.batches: list[list[int]] = []

    def run(self, positions: NDArray[np.int64]) -> torch.Tensor:
        if self.lengths[positions].max() * len(positions) > self.room:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
        self.batches.append(positions.tolist())
        return torch.tensor(positions, dtype=torch.float32)


class FakeEngine:
    path = "fake"
    device = torch.device("cpu")

    def __init__(
        self, lengths: Sequence[int], room: int = 10**9, workers: int = 1, batch_tokens: int = 100
    ) -> None:
        self.job = FakeJob(lengths, room)
        self.workers = workers
        self.batch_tokens = batch_tokens

    def enter_worker(self) -> None:
        pass

    def prepare(self, pairs: object) -> FakeJob:
        return self.job


def run(engine: FakeEngine) -> tuple[PairScorer, np.ndarray]:
    scorer = PairScorer(engine, dtype="float32", max_length=50)
    index = np.arange(len(engine.job.lengths))
    return scorer, scorer.score(["q"] * len(index), ["d"] * len(index), index, index)


def test_batches_are_longest_first_and_within_the_budget() -> None:
    engine = FakeEngine([10, 40, 20, 50, 20, 10])
    _, scores = run(engine)
    assert engine.job.batches == [[3, 1], [2, 4, 0, 5]]
    assert scores.tolist() == [0, 1, 2, 3, 4, 5]


def test_out_of_memory_halves_the_budget_and_remembers(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine([20] * 8, room=45)
    with caplog.at_level(logging.WARNING):
        scorer, scores = run(engine)
    assert scores.tolist() == list(range(8))
    assert max(map(len, engine.job.batches)) == 2
    assert scorer.batch_tokens == 50
    assert "at most 50 tokens" in caplog.text
    caplog.clear()
    scorer.score(["q"], ["d"], np.zeros(8, int), np.zeros(8, int))
    assert "out of memory" not in caplog.text


def test_out_of_memory_in_threads(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine([20] * 40, room=45, workers=3)
    with caplog.at_level(logging.WARNING):
        scorer, scores = run(engine)
    assert scores.tolist() == list(range(40))
    assert scorer.batch_tokens == 50


def test_a_single_pair_that_does_not_fit_fails() -> None:
    with pytest.raises(RuntimeFailure, match="single pair of 90 tokens"):
        run(FakeEngine([20, 90], room=45))


def test_small_jobs_give_every_worker_a_batch() -> None:
    engine = FakeEngine([300] * 8, workers=4, batch_tokens=10_000)
    run(engine)
    assert len(engine.job.batches) == 4


def test_no_pairs() -> None:
    scorer, scores = run(FakeEngine([]))
    assert len(scores) == 0
    with pytest.raises(ValueError, match="2 queries against 1"):
        scorer.score(["q"], ["d"], np.zeros(2, int), np.zeros(1, int))


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    engine = FakeEngine([20])
    engine.job.run = lambda positions: (_ for _ in ()).throw(RuntimeError("boom"))
    with pytest.raises(RuntimeError, match="boom"):
        run(engine)


def failing_above(
    room: int, error: Exception, alive: bool, monkeypatch: pytest.MonkeyPatch
) -> FakeEngine:
    """An accelerator whose kernels fail for more than `room` pairs."""
    engine = FakeEngine([20] * 8, batch_tokens=160)
    work = engine.job.run
    engine.device = engine.job.device = torch.device("xpu")

    def run(positions: NDArray[np.int64]) -> torch.Tensor:
        if len(positions) > room:
            raise error
        return work(positions)

    def ones(*_: Any, **__: Any) -> torch.Tensor:
        if not alive:
            raise RuntimeError("no answer")
        return torch.zeros(1)

    engine.job.run = run
    monkeypatch.setattr(results.torch, "ones", ones)
    monkeypatch.setattr(torch.xpu, "empty_cache", lambda: None)
    return engine


@pytest.mark.parametrize("error", [RuntimeError, torch.AcceleratorError])
def test_a_failing_kernel_halves_the_batch_and_is_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: type[Exception]
) -> None:
    engine = failing_above(2, error("kernel launch refused\ndetails"), True, monkeypatch)
    with caplog.at_level(logging.WARNING):
        scorer, scores = run(engine)
    assert scores.tolist() == list(range(8))
    assert max(map(len, engine.job.batches)) == 2
    assert caplog.text.count("kernel launch refused on xpu") == 1


def test_a_kernel_that_fails_for_a_single_pair_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = failing_above(0, RuntimeError("kernel launch refused"), True, monkeypatch)
    with pytest.raises(RuntimeFailure, match="kernel launch refused on xpu with a single pair"):
        run(engine)


def test_a_device_that_no_longer_answers_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = failing_above(2, RuntimeError("kernel launch refused"), False, monkeypatch)
    with pytest.raises(RuntimeFailure, match="device failed: kernel launch refused"):
        run(engine)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_lost_device_is_named_and_what_came_before_stays(workers: int) -> None:
    engine = FakeEngine([40, 20, 20], workers=workers, batch_tokens=40)
    work = engine.job.run

    def lost(positions: NDArray[np.int64]) -> torch.Tensor:
        if 2 in positions:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure\nCompile with ...")
        return work(positions)

    engine.job.run = lost
    scorer = PairScorer(engine, dtype="float32", max_length=50)
    batches = scorer.batches(["q"] * 3, ["d"] * 3, np.arange(3), np.arange(3))
    assert next(batches)[0].tolist() == [0]
    with pytest.raises(RuntimeFailure, match="unspecified launch failure. .* start the command"):
        list(batches)
