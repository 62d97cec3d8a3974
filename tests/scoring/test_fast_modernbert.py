"""The packed ModernBERT forward against CrossEncoder.predict, with windows shorter than pairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import Rerank
from reranking.scoring.scorer import PairScorer
from tests.support.model_zoo import dense_chain, modernbert
from tests.support.tiny import sentence

torch = pytest.importorskip("torch")

from reranking.scoring import fast_modernbert  # noqa: E402

RNG = np.random.default_rng(4)
TEXTS = ["", "river", "naïve 東京 [SEP]", "x" * 200, *(sentence(RNG, 1, 14) for _ in range(8))]
INDEX = RNG.integers(0, len(TEXTS), 80), RNG.integers(0, len(TEXTS), 80)


def load(folder: Path, **settings: Any) -> PairScorer:
    return PairScorer.load(folder, Rerank(device="cpu", **settings))


def predicted(folder: Path) -> np.ndarray:
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), device="cpu", local_files_only=True)
    pairs = [(TEXTS[q], TEXTS[d]) for q, d in zip(*INDEX, strict=True)]
    return model.predict(pairs, activation_fn=torch.nn.Identity())


NARROW = {"local_attention": 8, "num_hidden_layers": 4}  # layers 1 and 2 are local


@pytest.mark.parametrize(
    "settings",
    [
        NARROW,
        {"local_attention": 2, "num_hidden_layers": 3},  # the last layer is local
        {**NARROW, "classifier_pooling": "mean"},
        {**NARROW, "attention_bias": True, "mlp_bias": True, "norm_bias": True},
        {**NARROW, "classifier_bias": True, "hidden_activation": "relu"},
        {**NARROW, "global_attn_every_n_layers": 1},
        {**NARROW, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]},
    ],
)
@pytest.mark.parametrize("save", [modernbert, dense_chain])
def test_every_setting_scores_as_predict(
    tmp_path: Path, save: Callable[..., Path], settings: dict[str, Any]
) -> None:
    if save is dense_chain and "classifier_pooling" in settings:
        settings = NARROW | {"pooling": "mean"}
    folder = save(tmp_path / "model", **settings)
    scorer = load(folder)
    assert scorer.path.startswith("packed-modernbert/")
    expected = predicted(folder)
    assert np.std(expected) > 0.05
    np.testing.assert_allclose(scorer.score(TEXTS, TEXTS, *INDEX), expected, atol=1e-4)


@pytest.mark.parametrize(
    "settings", [{"hidden_activation": "silu"}, {"num_labels": 3}], ids=["activation", "labels"]
)
def test_other_layouts_are_left_to_the_stock_model(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    folder = modernbert(tmp_path / "model", **settings)
    label = {"label": 1} if "num_labels" in settings else {}
    assert load(folder, **label).path == "generic/cpu"


def test_a_window_that_is_off_by_one_is_seen_at_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = modernbert(tmp_path / "model", **NARROW)
    window = fast_modernbert.FastModernBert._window

    def wrong(self: Any, kind: str) -> int | None:
        right = window(self, kind)
        return right and right + 1

    monkeypatch.setattr(fast_modernbert.FastModernBert, "_window", wrong)
    assert load(folder).path == "generic/cpu"


def test_half_precision_is_near(tmp_path: Path) -> None:
    folder = dense_chain(tmp_path / "model", **NARROW)
    exact = load(folder).score(TEXTS, TEXTS, *INDEX)
    scorer = load(folder, precision="bfloat16")
    near = scorer.score(TEXTS, TEXTS, *INDEX)
    assert 0 < np.abs(near - exact).max() < 0.2 * max(1.0, np.ptp(exact))
