"""Whatever a fast path raises, at load or in the middle of a run, the stock model scores."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.documents import Encoder
from configs.schema import Rerank
from reranking.errors import RuntimeFailure
from reranking.scoring.encoder import SentenceEncoder
from reranking.scoring.scorer import PairScorer
from tests.support.model_zoo import bert, causal, dense_chain, modernbert, roberta, tiny_encoder

torch = pytest.importorskip("torch")

from reranking.scoring import fast, fast_encoder, results  # noqa: E402
from reranking.scoring.fast_bert import FastBert  # noqa: E402
from reranking.scoring.fast_modernbert import FastModernBert  # noqa: E402
from reranking.scoring.generic import GenericEngine  # noqa: E402

TEXTS = ["river stone", "lamp", "winter paper signal copper " * 20, "", "violin harbor"]
INDEX = tuple(a.ravel() for a in np.meshgrid(np.arange(5), np.arange(5), indexing="ij"))

# A signature that changed, a kernel that is gone, a private function that is gone, a lack of
# memory, an internal check: whatever a newer library may raise.
ERRORS = [
    TypeError("varlen_attn() got an unexpected keyword argument 'scale'"),
    RuntimeError("no kernel image is available"),
    AttributeError("module 'torch.ops.mkldnn' has no attribute '_linear_pointwise'"),
    torch.OutOfMemoryError("CUDA out of memory"),
    NotImplementedError("Could not run 'x' with arguments from the 'CPU' backend"),
    KeyError("sliding_attention"),
    AssertionError(),
]
LAYOUTS: dict[str, tuple[Callable[[Path], Path], type[Any]]] = {
    "bert": (bert, FastBert),
    "roberta": (roberta, FastBert),
    "modernbert": (modernbert, FastModernBert),
    "chain": (dense_chain, FastModernBert),
}


def named(error: Exception) -> str:
    return type(error).__name__


@pytest.fixture(scope="module", autouse=True)
def timings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Which kernels are faster here is measured once for all of these tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RESCORE_CACHE", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """One, where a test does not ask for more: the models are tiny."""
    before = torch.get_num_threads()
    torch.set_num_threads(getattr(request, "param", 1))
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def nothing_checked(timings: Path) -> None:
    """No load check is remembered from an earlier test."""
    shutil.rmtree(timings / "verdicts", ignore_errors=True)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, np.ndarray]]:
    """A layout's folder and its stock scores."""
    made: dict[str, tuple[Path, np.ndarray]] = {}

    def of(layout: str) -> tuple[Path, np.ndarray]:
        if layout not in made:
            folder = LAYOUTS[layout][0](tmp_path_factory.mktemp("failing") / "model")
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(fast, "fast_layout", lambda model: None)
                scorer = load(folder)
            assert scorer.path == "generic/cpu"
            made[layout] = folder, scorer.score(TEXTS, TEXTS, *INDEX)
        return made[layout]

    return of


def load(folder: Path, **settings: Any) -> PairScorer:
    return PairScorer.load(folder, Rerank(device="cpu", **settings))


def failing(error: Exception, after: int = 0, right: Any = None) -> Any:
    """A function that raises from its `after`-th call on and does what is right until then."""
    calls = [0]

    def fail(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] > after:
            raise error
        return right(*arguments, **named)

    return fail


AT_LOAD = [
    *(("bert", "__call__", error) for error in ERRORS[:4]),
    *(("bert", "__init__", error) for error in ERRORS[4:]),
    ("chain", "__call__", ERRORS[0]),
    ("modernbert", "__init__", ERRORS[2]),
    ("modernbert", "__call__", ERRORS[3]),
]


@pytest.mark.parametrize(("layout", "place", "error"), AT_LOAD)
def test_at_load(
    layout: str,
    place: str,
    error: Exception,
    known: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder, expected = known(layout)
    monkeypatch.setattr(LAYOUTS[layout][1], place, failing(error))
    with caplog.at_level(logging.WARNING):
        scorer = load(folder)
    assert scorer.path == "generic/cpu"
    assert f"{named(error)}: {error}" in caplog.text and "fast path" in caplog.text
    np.testing.assert_allclose(scorer.score(TEXTS, TEXTS, *INDEX), expected, atol=1e-5)


def test_a_layout_that_cannot_be_read(
    known: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, _ = known("modernbert")
    monkeypatch.setattr(fast, "modernbert_layout", failing(AttributeError("rope_parameters")))
    with caplog.at_level(logging.WARNING):
        assert load(folder).path == "generic/cpu"
    assert "no fast path on cpu: AttributeError: rope_parameters" in caplog.text


OTHERS = [error for error in ERRORS if "memory" not in str(error)]
IN_THE_MIDDLE = [
    ("bert", OTHERS[0], 2),
    ("modernbert", OTHERS[1], 1),
    *(pytest.param(layout, e, 2, marks=pytest.mark.slow) for layout in LAYOUTS for e in OTHERS),
]


@pytest.mark.parametrize(("layout", "error", "threads"), IN_THE_MIDDLE, indirect=["threads"])
def test_in_the_middle_of_a_run(
    layout: str,
    error: Exception,
    known: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What was scored before stays, the rest is scored by the stock model, each pair once."""
    folder, expected = known(layout)
    scorer = load(folder, batch_tokens=128)
    path, forward = scorer.path, LAYOUTS[layout][1]
    assert path.startswith("packed")
    monkeypatch.setattr(forward, "__call__", failing(error, 2, forward.__call__))
    with caplog.at_level(logging.WARNING):
        batches = list(scorer.batches(TEXTS, TEXTS, *INDEX))
    positions = np.concatenate([b.positions for b in batches])
    logits = np.concatenate([b.logits for b in batches])
    assert sorted(positions) == list(range(len(expected)))
    np.testing.assert_allclose(logits, expected[positions], atol=1e-4)
    assert all(b.tokens is not None for b in batches)
    assert caplog.text.count("scoring with the stock model from here on") == 1
    assert scorer.path == f"{path}, then generic/cpu"
    again = scorer.score(TEXTS, TEXTS, *INDEX)
    np.testing.assert_allclose(again, expected, atol=1e-5)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_remembered_fast_path_has_the_stock_model_to_fall_back_on(
    precision: str, known: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = known("bert")
    expected = load(folder, precision=precision).score(TEXTS, TEXTS, *INDEX)
    scorer = load(folder, precision=precision)
    monkeypatch.setattr(FastBert, "__call__", failing(TypeError("x")))
    found = scorer.score(TEXTS, TEXTS, *INDEX)
    assert scorer.path.endswith("then generic/cpu")
    np.testing.assert_allclose(found, expected, atol=1e-4 if precision == "float32" else 0.1)


def test_tokens_that_cannot_be_put_together(known: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, expected = known("bert")
    scorer = load(folder)
    monkeypatch.setattr(fast.FastEngine, "prepare", failing(IndexError("segments")))
    np.testing.assert_allclose(scorer.score(TEXTS, TEXTS, *INDEX), expected, atol=1e-5)


@pytest.mark.parametrize("layout", ["bert", "modernbert", "decoder"])
def test_a_lack_of_memory_halves_batches_on_the_same_path(
    layout: str,
    tmp_path: Path,
    known: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings: dict[str, Any] = {"batch_tokens": 400}
    if layout == "decoder":
        settings["answer_tokens"] = {"positive": "yes"}
        scorer = load(causal(tmp_path / "model"), **settings)
        expected = scorer.score(TEXTS, TEXTS, *INDEX)
        forward: Any = scorer._engine.model  # type: ignore[attr-defined]
        cls = type(forward)
    else:
        folder, expected = known(layout)
        scorer, cls = load(folder, **settings), LAYOUTS[layout][1]
    path, right, sizes = scorer.path, cls.__call__, []

    def full(self: Any, batch: Any) -> Any:
        pairs = batch["input_ids"].shape[0] if layout == "decoder" else len(batch.lengths)
        if pairs > 2:
            raise torch.OutOfMemoryError("out of memory")
        sizes.append(pairs)
        return right(self, batch)

    monkeypatch.setattr(cls, "__call__", full)
    with caplog.at_level(logging.WARNING):
        found = scorer.score(TEXTS, TEXTS, *INDEX)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert scorer.path == path and max(sizes) == 2
    assert caplog.text.count("out of memory on cpu: batches have at most") == 1


def test_a_kernel_that_fails_for_single_pairs_leaves_them_to_the_stock_model(
    known: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a device that still computes: batches become smaller, then another path is taken."""
    folder, expected = known("bert")
    scorer = load(folder, batch_tokens=400)
    monkeypatch.setattr(FastBert, "__call__", failing(RuntimeError("launch refused")))
    monkeypatch.setattr(scorer, "_pool", None)

    def survives(error: Exception, device: Any) -> str:
        return str(error)

    monkeypatch.setattr(results, "_survived", survives)
    monkeypatch.setattr(torch, "AcceleratorError", RuntimeError)
    with caplog.at_level(logging.WARNING):
        found = scorer.score(TEXTS, TEXTS, *INDEX)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert "launch refused on cpu: batches have at most" in caplog.text
    assert "with a single pair of" in caplog.text and "stock model from here on" in caplog.text


def test_the_stock_model_has_nothing_to_fall_back_on(
    known: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = known("bert")
    monkeypatch.setattr(fast, "fast_layout", lambda model: None)
    scorer = load(folder)
    monkeypatch.setattr(GenericEngine, "prepare", failing(TypeError("broken")))
    with pytest.raises(TypeError, match="broken"):
        scorer.score(TEXTS, TEXTS, *INDEX)


def test_a_lost_device_is_no_matter_for_another_path(
    known: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = known("bert")
    scorer = load(folder)
    monkeypatch.setattr(FastBert, "__call__", failing(torch.AcceleratorError("lost")))
    with pytest.raises(RuntimeFailure, match="device failed"):
        scorer.score(TEXTS, TEXTS, *INDEX)
    assert scorer.path.startswith("packed") and "then" not in scorer.path


@pytest.mark.parametrize(
    ("place", "error"),
    [("__init__", ERRORS[0]), ("_run", ERRORS[2]), *(("in the middle", e) for e in ERRORS[1:5])],
)
def test_an_encoder(
    place: str,
    error: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = tiny_encoder(tmp_path)
    encoder = SentenceEncoder(Encoder(model=str(folder), device="cpu"))
    expected = np.asarray(encoder._model.encode(TEXTS), np.float32)
    if place == "in the middle":
        assert encoder._fast is not None
    target = "_run" if place == "in the middle" else place
    monkeypatch.setattr(fast_encoder.FastEncoder, target, failing(error))
    with caplog.at_level(logging.WARNING):
        found = encoder.encode_documents(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert f"{named(error)}: {error}" in caplog.text and "fast encoder" in caplog.text
    assert encoder.dimension == 32 and encoder._fast is None
    np.testing.assert_allclose(encoder.encode_queries(TEXTS), expected, atol=1e-6)
