"""Several devices are several processes; two CPUs run the same code as two GPUs."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from configs.schema import Rerank
from reranking.errors import ConfigError, MissingPrerequisite, RuntimeFailure
from reranking.scoring import devices
from reranking.scoring.cpu import attention, linears
from reranking.scoring.devices import MultiScorer, _shares, load_scorer
from reranking.scoring.scorer import PairScorer
from tests.support.tiny import sentence

RNG = np.random.default_rng(5)
TEXTS = ["", *(sentence(RNG) for _ in range(11))]
INDEX = RNG.integers(0, 12, 150), RNG.integers(0, 12, 150)
TWO = Rerank(device=["cpu", "cpu"])


@pytest.fixture(scope="module")
def two(cross_encoder: Path) -> Iterator[MultiScorer]:
    load_scorer(cross_encoder, Rerank(device="cpu"))  # its check serves both processes
    with load_scorer(cross_encoder, TWO) as scorer:
        yield scorer


def test_two_devices_score_as_one(cross_encoder: Path, two: MultiScorer) -> None:
    one = load_scorer(cross_encoder, Rerank(device=["cpu"]))
    assert isinstance(one, PairScorer)
    assert isinstance(two, MultiScorer)
    kinds = [path.split("/")[0::2] for path in two.path.split(" + ")]
    assert kinds == [["packed-bert", "cpu"]] * 2  # the kernels between them are chosen by timing
    assert (two.dtype, two.max_length) == (one.dtype, one.max_length)
    expected = one.score(TEXTS, TEXTS, *INDEX)
    np.testing.assert_allclose(two.score(TEXTS, TEXTS, *INDEX), expected, atol=1e-5)
    told: list[list[int]] = []
    for scorer in (one, two):
        batches = list(scorer.batches(TEXTS, TEXTS, *INDEX))
        order = np.argsort(np.concatenate([b.positions for b in batches]))
        told.append(np.concatenate([b.tokens for b in batches])[order].tolist())
    assert told[0] == told[1]
    assert len(two.score(TEXTS, TEXTS, *(i[:0] for i in INDEX))) == 0
    np.testing.assert_allclose(
        two.score(TEXTS, TEXTS, *(i[:1] for i in INDEX)), expected[:1], atol=1e-5
    )


@pytest.mark.slow
def test_processes_take_the_kernels_that_were_chosen_first(
    cross_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RESCORE_CACHE", str(tmp_path))  # the processes see it too
    for module, seconds in ((linears, [1.0, 9.0]), (attention, [9.0, 1.0])):
        monkeypatch.setattr(module, "least_seconds", lambda *_, s=seconds: s)
    one = load_scorer(cross_encoder, Rerank(device="cpu"))
    with load_scorer(cross_encoder, TWO) as scorer:
        assert scorer.path == f"{one.path} + {one.path}"


def test_both_devices_work_and_each_pair_comes_once(two: MultiScorer) -> None:
    seen = [batch.positions for batch in two.batches(TEXTS, TEXTS, *INDEX)]
    assert sorted(np.concatenate(seen).tolist()) == list(range(150))
    shares = _shares(TEXTS, TEXTS, *INDEX, 2)
    assert all(50 < len(share) < 100 for share in shares)


def test_a_call_given_up_half_way_does_not_disturb_the_next(
    cross_encoder: Path, two: MultiScorer
) -> None:
    next(iter(two.batches(TEXTS, TEXTS, *INDEX)))
    one = load_scorer(cross_encoder, Rerank(device="cpu"))
    np.testing.assert_allclose(
        two.score(TEXTS, TEXTS, *INDEX), one.score(TEXTS, TEXTS, *INDEX), atol=1e-5
    )


@pytest.mark.slow
def test_fresh_processes_take_over_after_some_calls(
    cross_encoder: Path, two: MultiScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = two.score(TEXTS, TEXTS, *INDEX)
    monkeypatch.setattr(devices, "_CALLS", 2)
    with load_scorer(cross_encoder, TWO) as scorer:
        seen = []
        for _ in range(3):
            seen.append({worker.process.pid for worker in scorer._workers})
            np.testing.assert_allclose(scorer.score(TEXTS, TEXTS, *INDEX), expected, atol=1e-5)
        last = {worker.process.pid for worker in scorer._workers}
        assert seen[0] == seen[1] == seen[2] and not seen[2] & last
        assert all(worker.process.is_alive() for worker in scorer._workers)


@pytest.mark.slow
def test_a_dead_process_names_its_device(cross_encoder: Path) -> None:
    with load_scorer(cross_encoder, TWO) as scorer:
        os.kill(scorer._workers[1].process.pid, signal.SIGKILL)
        with pytest.raises(RuntimeFailure, match=r"device cpu ended \(exit code -9\)"):
            scorer.score(TEXTS, TEXTS, *INDEX)


@pytest.mark.slow
def test_errors_of_a_device_come_through(cross_encoder: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = Path(shutil.copytree(cross_encoder, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"][:] = np.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with (
        load_scorer(folder, TWO) as scorer,
        pytest.raises(RuntimeFailure, match="on device cpu: the model gave nan"),
    ):
        scorer.score(TEXTS, TEXTS, *INDEX)
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(MissingPrerequisite, match="on device cpu: .* could not be loaded"):
        load_scorer(folder, TWO)


def test_an_empty_list_of_devices_is_refused(cross_encoder: Path) -> None:
    with pytest.raises(ConfigError, match="empty list"):
        load_scorer(cross_encoder, Rerank(device=[]))
