"""The packed forward: what it accepts, that it is checked at load, how its parts choose."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import Rerank
from reranking.scoring.scorer import PairScorer
from tests.support.model_zoo import bert

torch = pytest.importorskip("torch")

from reranking.scoring import fast_bert  # noqa: E402
from reranking.scoring.attention import choose_attention  # noqa: E402
from reranking.scoring.cpu import attention, linears  # noqa: E402
from reranking.scoring.cpu.attention import attend_matmul, attend_runs, runs  # noqa: E402
from reranking.scoring.packing import Packed  # noqa: E402

TEXTS = ["river stone", "lamp", "winter paper signal copper " * 20, ""]
INDEX = np.array([0, 1, 2, 3, 0]), np.array([1, 2, 2, 3, 3])


@pytest.fixture(autouse=True)
def own_timings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Timings that a test makes up are not remembered for other tests."""
    monkeypatch.setenv("RESCORE_CACHE", str(tmp_path / "cache"))


def load(folder: Path, **settings: Any) -> PairScorer:
    return PairScorer.load(folder, Rerank(device="cpu", **settings))


def scores(scorer: PairScorer) -> np.ndarray:
    return scorer.score(TEXTS, TEXTS, *INDEX)


def changed(tmp_path: Path, **config: Any) -> Path:
    folder = bert(tmp_path / "model")
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def packed_of(lengths: tuple[int, ...]) -> Packed:
    starts = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    empty = torch.zeros(0)
    return Packed(empty, empty, empty, empty, starts, lengths)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu", "silu"])
def test_activations(tmp_path: Path, activation: str) -> None:
    from sentence_transformers import CrossEncoder

    folder = changed(tmp_path, hidden_act=activation)
    scorer = load(folder)
    assert scorer.path.startswith("generic" if activation == "silu" else "packed-bert")
    stock = CrossEncoder(str(folder), device="cpu", local_files_only=True)
    pairs = [(TEXTS[q], TEXTS[d]) for q, d in zip(*INDEX, strict=True)]
    np.testing.assert_allclose(scores(scorer), stock.predict(pairs), atol=1e-4)


def test_a_fast_path_that_is_off_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = bert(tmp_path / "model")
    expected = scores(load(folder))
    score = fast_bert.FastBert._score
    monkeypatch.setattr(fast_bert.FastBert, "_score", lambda self, x: score(self, x) + 2e-4)
    with caplog.at_level(logging.WARNING):
        scorer = load(folder)
    assert scorer.path == "generic/cpu"
    assert "off by 2.0e-04" in caplog.text
    np.testing.assert_allclose(scores(scorer), expected, atol=1e-5)


def test_a_fast_path_that_is_off_only_for_pairs_alone_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = bert(tmp_path / "model")
    score = fast_bert.FastBert._score
    monkeypatch.setattr(
        fast_bert.FastBert, "_score", lambda self, x: score(self, x) + (len(x) == 1) * 2e-4
    )
    assert load(folder).path == "generic/cpu"


def test_threads_and_budgets_do_not_change_scores(tmp_path: Path) -> None:
    scorer = load(bert(tmp_path / "model"), batch_tokens=64)
    threads = torch.get_num_threads()
    scorer_alone = load(tmp_path / "model")
    scorer_alone._pool = None
    rng = np.random.default_rng(0)
    index = rng.integers(0, 4, 300), rng.integers(0, 4, 300)
    many, few = (s.score(TEXTS, TEXTS, *index) for s in (scorer, scorer_alone))
    np.testing.assert_allclose(many, few, atol=1e-5)
    assert torch.get_num_threads() == threads  # the workers' setting is theirs


def test_runs_of_equal_length() -> None:
    assert list(runs((5, 5, 3, 2, 2, 2))) == [(0, 2, 0, 5), (2, 1, 10, 3), (3, 3, 13, 2)]
    assert list(runs((4,))) == [(0, 1, 0, 4)]


@pytest.mark.parametrize("attend", [attend_runs, attend_matmul])
@pytest.mark.parametrize("chunk", [100, 1000, 1 << 20])
@pytest.mark.parametrize("lengths", [(5, 5, 3, 1), (7,), (2, 2, 2)])
def test_attention_equals_softmax_written_out(
    lengths: tuple[int, ...],
    chunk: int,
    attend: Callable[..., torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "_CHUNK_BYTES", chunk)
    setting = torch.backends.mkldnn.matmul.fp32_precision
    heads, width = 2, 4
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, sum(lengths), heads, width, generator=generator)
    packed = packed_of(lengths)
    expected, start = [], 0
    for n in lengths:
        rows = slice(start, start + n)
        logits = torch.einsum("qhd,khd->hqk", q[rows], k[rows]) / width**0.5
        expected.append(torch.einsum("hqk,khd->qhd", logits.softmax(-1), v[rows]))
        start += n
    whole = torch.cat(expected)
    q = q / width**0.5
    torch.testing.assert_close(attend(q, k, v, packed, False), whole)
    first = packed.starts[:-1].long()
    torch.testing.assert_close(attend(q[first], k, v, packed, True), whole[first])
    assert torch.backends.mkldnn.matmul.fp32_precision == setting


@pytest.mark.parametrize("attend", [attend_runs, attend_matmul])
@pytest.mark.parametrize("window", [1, 4, 16, 40, 99, 100])
def test_a_window_is_a_mask_on_softmax(window: int, attend: Callable[..., torch.Tensor]) -> None:
    lengths, heads, width = (100, 100, 70, 5, 1), 2, 4
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, sum(lengths), heads, width, generator=generator)
    expected, start = [], 0
    for n in lengths:
        rows = slice(start, start + n)
        logits = torch.einsum("qhd,khd->hqk", q[rows], k[rows])
        steps = torch.arange(n)
        logits[:, (steps[:, None] - steps).abs() > window] = -torch.inf
        expected.append(torch.einsum("hqk,khd->qhd", logits.softmax(-1), v[rows]))
        start += n
    found = attend(q, k, v, packed_of(lengths), False, window)
    torch.testing.assert_close(found, torch.cat(expected))


@pytest.mark.parametrize("wrong", [0.0, 1e-3])
def test_attention_by_products_must_be_exact_and_faster(
    monkeypatch: pytest.MonkeyPatch, wrong: float
) -> None:
    found = attention.attend_matmul
    monkeypatch.setattr(attention, "attend_matmul", lambda *a: found(*a) + wrong)
    seconds = iter([[2.0, 1.0], [1.0, 2.0]])
    monkeypatch.setattr(attention, "least_seconds", lambda *calls: next(seconds))
    device = torch.device("cpu")
    chosen = [choose_attention(device, torch.float32, 2, w)[1] for w in (8, 16)]
    assert chosen == (["sdpa", "sdpa"] if wrong else ["matmul", "sdpa"])


@pytest.mark.parametrize("activation", ["", "gelu", "gelu_tanh", "relu"])
def test_prepacked_linear_equals_the_plain_one(activation: str) -> None:
    weight, bias, x = torch.randn(48, 32), torch.randn(48), torch.randn(70, 32)
    try:
        packed = linears.PrepackedLinear(weight, bias, activation, 64)
    except (RuntimeError, AttributeError):
        pytest.skip("this torch build has no oneDNN")
    plain = linears.PlainLinear(weight, bias, activation)
    torch.testing.assert_close(packed(x), plain(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("times", "chosen"),
    [((1.0, 0.5), linears.PrepackedLinear), ((1.0, 1.0), linears.PlainLinear)],
)
def test_the_faster_linear_is_chosen(
    monkeypatch: pytest.MonkeyPatch, times: tuple[float, float], chosen: type
) -> None:
    monkeypatch.setattr(linears, "least_seconds", lambda *calls: times)
    assert linears.choose_linear(torch.randn(8, 8), torch.randn(8), "gelu", 16)[0] is chosen


def test_a_private_op_that_is_gone_or_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, bias = torch.randn(8, 8), torch.randn(8)
    monkeypatch.setattr(linears, "least_seconds", lambda *calls: [2.0, 1.0])

    class Wrong(linears.PlainLinear):
        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return super().__call__(x) + 0.1

    monkeypatch.setattr(linears, "PrepackedLinear", Wrong)
    assert linears.choose_linear(weight, bias, "", 16) == (linears.PlainLinear, "torch")

    def gone(*_: object) -> None:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    monkeypatch.setattr(linears, "PrepackedLinear", gone)
    assert linears.choose_linear(weight, bias, "", 16) == (linears.PlainLinear, "torch")
