"""The CUDA path: the packed forward against the stock model's float32 scores on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from configs.schema import Rerank
from reranking.scoring.devices import load_scorer
from reranking.scoring.engines import Pairs
from reranking.scoring.scorer import PairScorer
from tests.support.tiny import sentence

torch = pytest.importorskip("torch")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

RNG = np.random.default_rng(8)
TEXTS = ["", "river", *(sentence(RNG, 1, 60) for _ in range(30))]
INDEX = RNG.integers(0, len(TEXTS), 400), RNG.integers(0, len(TEXTS), 400)


def load(folder: Path, **settings: object) -> PairScorer:
    return PairScorer.load(folder, Rerank(**{"device": "cuda", **settings}))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def exact(cross_encoder: Path) -> np.ndarray:
    """The stock model's float32 logits, computed on the CPU pair by pair as its users do."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(cross_encoder), device="cpu", local_files_only=True)
    pairs = [(TEXTS[q], TEXTS[d]) for q, d in zip(*INDEX, strict=True)]
    return model.predict(pairs, activation_fn=torch.nn.Identity())


def test_float32_scores_are_the_stock_models(cross_encoder: Path, exact: np.ndarray) -> None:
    scorer = load(cross_encoder, precision="float32")
    assert scorer.path == "packed-bert/cuda-sdpa/cuda"
    np.testing.assert_allclose(scorer.score(TEXTS, TEXTS, *INDEX), exact, atol=1e-4)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_stays_near(cross_encoder: Path, exact: np.ndarray, precision: str) -> None:
    scorer = load(cross_encoder, precision=precision)
    assert scorer.path.startswith("packed-bert/cuda-")
    found = scorer.score(TEXTS, TEXTS, *INDEX)
    bound = 0.02 if precision == "float16" else 0.15
    assert np.abs(found - exact).max() < bound * max(1.0, float(np.ptp(exact)))
    assert np.corrcoef(found, exact)[0, 1] > 0.99


def test_auto_is_half_and_one_varlen_kernel(cross_encoder: Path) -> None:
    scorer = load(cross_encoder)
    assert scorer.dtype in ("bfloat16", "float16")
    pytest.importorskip("torch.nn.attention.varlen")
    assert scorer.path == "packed-bert/cuda-varlen/cuda"


@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_batches_do_not_change_scores(cross_encoder: Path, precision: str) -> None:
    whole = load(cross_encoder, precision=precision).score(TEXTS, TEXTS, *INDEX)
    parts = load(cross_encoder, precision=precision, batch_tokens=100).score(TEXTS, TEXTS, *INDEX)
    np.testing.assert_allclose(parts, whole, atol=1e-5 if precision == "float32" else 0.05)


def test_the_loop_does_not_wait_for_the_device(cross_encoder: Path) -> None:
    scorer = load(cross_encoder)
    job = scorer._engine.prepare(Pairs(TEXTS, TEXTS, *INDEX))
    positions = np.arange(100)
    with torch.inference_mode():
        job.run(positions)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")  # from here on a synchronisation raises
        try:
            logits = job.run(positions)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(logits).all()


def test_two_processes_share_the_pairs(cross_encoder: Path) -> None:
    one = load(cross_encoder, precision="float32").score(TEXTS, TEXTS, *INDEX)
    settings = Rerank(device=["cuda:0", "cuda:0"], precision="float32")
    with load_scorer(cross_encoder, settings) as two:  # type: ignore[attr-defined]
        np.testing.assert_allclose(two.score(TEXTS, TEXTS, *INDEX), one, atol=1e-5)


def test_the_benchmark_of_a_device_gives_possible_figures(
    cross_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import cuda
    from benchmarks.texts import Texts

    monkeypatch.setattr(cuda, "LENGTH", 48)  # what the tiny model has positions for
    found = cuda.on_device(Texts("tiny", TEXTS[1:], TEXTS[1:]), cross_encoder, "cuda", 3000)
    assert found["pairs_per_second"] > 0
    assert found["share_of_peak"] > 0
    assert 0 <= found["waiting"] < 1
