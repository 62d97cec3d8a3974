"""The scorer against the stock CrossEncoder, and its batching against a fake engine."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from configs.schema import Rerank
from reranking.errors import ConfigError, MissingPrerequisite, RuntimeFailure
from reranking.models.files import read_model_files
from reranking.scoring.scorer import PairScorer, resolve_device, resolve_dtype
from tests.support.model_zoo import FAMILIES
from tests.support.tiny import sentence

torch = pytest.importorskip("torch")


RNG = np.random.default_rng(3)
QUERIES = ["", "river stone", "river " * 60, sentence(RNG), "naïve 東京 [SEP] </s> <pad> x"]
DOCUMENTS = ["", "lamp", sentence(RNG, 10, 14), "winter paper, signal! " * 30, "\t \n"]
PAIRS = [(q, d) for q in range(len(QUERIES)) for d in range(len(DOCUMENTS))]
Q, D = (np.array(side) for side in zip(*PAIRS, strict=True))


def stock_logits(folder: Path) -> np.ndarray:
    """What CrossEncoder.predict gives without an activation."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(folder), device="cpu", local_files_only=True)
    texts = [(QUERIES[q], DOCUMENTS[d]) for q, d in PAIRS]
    return model.predict(texts, activation_fn=torch.nn.Identity())


def load(folder: Path, **settings: Any) -> PairScorer:
    return PairScorer.load(folder, Rerank(device="cpu", **settings))


@pytest.fixture(scope="module", params=FAMILIES)
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, PairScorer]:
    folder = FAMILIES[request.param](tmp_path_factory.mktemp(request.param) / "model")
    return request.param, folder, load(folder)


def test_every_family_scores_as_the_stock_model(family: tuple[str, Path, PairScorer]) -> None:
    name, folder, scorer = family
    fast = name in ("bert", "electra", "roberta", "xlm_roberta", "modernbert")
    assert scorer.path.startswith("packed-" if fast else "generic/")
    scores = scorer.score(QUERIES, DOCUMENTS, Q, D)
    assert scores.dtype == np.float32
    expected = stock_logits(folder)
    assert np.std(expected) > 0.05  # a constant would prove nothing
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_a_score_does_not_depend_on_the_company(family: tuple[str, Path, PairScorer]) -> None:
    scorer = family[2]
    together = scorer.score(QUERIES, DOCUMENTS, Q, D)
    some = range(0, len(PAIRS), 3)
    alone = [
        scorer.score([QUERIES[q]], [DOCUMENTS[d]], np.array([0]), np.array([0]))[0]
        for q, d in (PAIRS[i] for i in some)
    ]
    np.testing.assert_allclose(alone, together[list(some)], atol=1e-5)
    usual, scorer.batch_tokens = scorer.batch_tokens, 50
    small = scorer.score(QUERIES, DOCUMENTS, Q, D)
    scorer.batch_tokens = usual
    np.testing.assert_allclose(small, together, atol=1e-5)


def test_half_precision_is_near(family: tuple[str, Path, PairScorer]) -> None:
    _, folder, full = family
    exact = full.score(QUERIES, DOCUMENTS, Q, D)
    scorer = load(folder, precision="bfloat16")
    assert scorer.dtype == "bfloat16"
    near = scorer.score(QUERIES, DOCUMENTS, Q, D)
    assert near.dtype == np.float32
    assert 0 < np.abs(near - exact).max() < 0.2 * max(1.0, np.ptp(exact))


def test_pairs_come_from_the_tokenizer_where_its_template_cannot_be_copied(
    cross_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from reranking.scoring import generic

    expected = load(cross_encoder).score(QUERIES, DOCUMENTS, Q, D)
    found = generic.find_template

    def broken(tokenizer: Tokenizer) -> object:
        template = found(tokenizer)
        return None if template is None else generic.replace(template, types=(1, 1, 1, 1, 1))

    monkeypatch.setattr(generic, "find_template", broken)
    monkeypatch.setenv("RESCORE_CACHE", str(tmp_path))  # where the model is not known yet
    with caplog.at_level(logging.WARNING):
        scorer = load(cross_encoder)
    assert scorer.path == "generic-tokenizer-pairs/cpu"
    assert "its template could not be copied" in caplog.text
    np.testing.assert_allclose(scorer.score(QUERIES, DOCUMENTS, Q, D), expected, atol=1e-4)


def test_a_default_prompt_of_the_model_is_applied(tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    from tests.support.model_zoo import bert

    stock = CrossEncoder(str(bert(tmp_path / "a")), device="cpu", local_files_only=True)
    stock.prompts["rank"] = "winter lamp "
    stock.default_prompt_name = "rank"
    stock.save_pretrained(str(tmp_path / "b"))
    texts = [(QUERIES[q], DOCUMENTS[d]) for q, d in PAIRS]
    expected = stock.predict(texts, activation_fn=torch.nn.Identity())
    scores = load(tmp_path / "b").score(QUERIES, DOCUMENTS, Q, D)
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_huge_texts_are_scored(cross_encoder: Path) -> None:
    scorer = load(cross_encoder)
    queries = ["river " * 100_000, "x" * 1_000_000, "river " * 300_000]
    documents = ["lamp", "stone " * 1000]
    index = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 0, 1, 0, 1])
    scores = scorer.score(queries, documents, *index)
    short = ["river " * 200, "x" * 1000, "river " * 200]
    cut = scorer.score(short, ["lamp", "stone " * 100], *index)
    np.testing.assert_allclose(scores, cut, atol=1e-5)


def test_broken_weights_name_the_pair(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    from tests.support.model_zoo import deberta

    folder = deberta(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"][:] = np.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RuntimeFailure, match=r"query 'river' and document 'lamp'"):
        load(folder).score(["river"], ["lamp"], np.array([0]), np.array([0]))


def test_unusable_models_are_refused(tmp_path: Path, cross_encoder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    with pytest.raises(ConfigError, match="load_scorer"):
        PairScorer.load(cross_encoder, Rerank(device=["cpu", "cpu"]))
    with pytest.raises(ConfigError, match="positions for 64 tokens"):
        load(cross_encoder, max_length=65)
    folder = Path(shutil.copytree(cross_encoder, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    headless = {k: v for k, v in weights.items() if not k.startswith("classifier")}
    save_file(headless, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="never trained"):
        load(folder)
    config = json.loads((folder / "config.json").read_text())
    three = {"id2label": {str(i): f"L{i}" for i in range(3)}}
    (folder / "config.json").write_text(json.dumps(config | three))
    with pytest.raises(ConfigError, match="3 labels"):
        load(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(MissingPrerequisite, match="could not be loaded"):
        load(folder)


def test_precision_and_device() -> None:
    assert resolve_dtype("auto", "cpu") == "float32"
    assert resolve_dtype("bfloat16", None) == "bfloat16"
    with pytest.raises(ConfigError, match="float64"):
        resolve_dtype("float64", "cpu")
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="toaster"):
        resolve_device("toaster")
    for absent in ("cuda:99", "mps", "xpu"):
        with pytest.raises(MissingPrerequisite, match=absent):
            resolve_device(absent)


def half_of(folder: Path, dtype: str) -> str:
    """What `auto` means on CUDA for a copy of the folder whose weights are stored in `dtype`."""
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    stored = {k: v.to(getattr(torch, dtype)) for k, v in weights.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    return resolve_dtype("auto", "cuda", read_model_files(folder))


def test_auto_on_cuda_is_decided_by_the_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.support.model_zoo import bert, decoder_classifier, dense_chain

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    kinds = ("float32", "bfloat16", "float16")
    encoder, decoder = bert(tmp_path / "a"), decoder_classifier(tmp_path / "b")
    # Narrowed step by step, so that nothing is rounded to what it was.
    assert [half_of(encoder, k) for k in kinds] == ["float16", "bfloat16", "float16"]
    assert [half_of(decoder, k) for k in kinds] == ["bfloat16", "bfloat16", "float16"]
    chain = read_model_files(dense_chain(tmp_path / "c"))
    assert resolve_dtype("auto", "cuda", chain) == "float16"
    assert resolve_dtype("auto", "cpu", chain) == "float32"


@pytest.mark.parametrize("family", ["bert", "deberta"])  # a fast path, and none
def test_float16_that_overflows_stops_at_load(tmp_path: Path, family: str) -> None:
    from safetensors.numpy import load_file, save_file

    folder = FAMILIES[family](tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"] *= 1e6 / np.abs(weights["classifier.weight"]).max()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="set precision: bfloat16"):
        load(folder, precision="float16")
    assert np.isfinite(load(folder, precision="bfloat16").score(["a"], ["b"], Q[:1], D[:1])).all()


@pytest.mark.parametrize("seconds", [[1.0, 6.6], [1.0, 0.5]])
def test_half_precision_that_is_slow_here_is_said_with_its_ratio(
    cross_encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    seconds: list[float],
) -> None:
    from reranking.scoring.cpu import linears

    monkeypatch.setenv("RESCORE_CACHE", str(tmp_path))
    monkeypatch.setattr(linears, "least_seconds", lambda *calls: seconds)
    with caplog.at_level(logging.WARNING):
        load(cross_encoder, precision="bfloat16")
    said = "bfloat16 is 6.6 times as slow as float32 on this processor" in caplog.text
    assert said == (seconds[1] > 1)


def test_cut_pairs_and_lost_tokens_are_counted(family: tuple[str, Path, PairScorer]) -> None:
    name, folder, _ = family
    scorer = load(folder)
    limit = scorer.max_length
    from sentence_transformers import CrossEncoder

    tokenizer = CrossEncoder(str(folder), device="cpu", local_files_only=True).tokenizer

    def tokens(**options: Any) -> np.ndarray:
        """As a batch: a single pair with an empty document would be taken for a lone text."""
        pairs = [(QUERIES[q], DOCUMENTS[d]) for q, d in PAIRS]
        return np.array([len(i) for i in tokenizer(pairs, verbose=False, **options)["input_ids"]])

    whole = tokens()
    seen = tokens(truncation=True, max_length=limit)  # of two long texts it may keep one less
    assert 0 < (whole > limit).sum() < len(PAIRS)
    assert set((whole - seen - np.maximum(whole - limit, 0)).tolist()) <= {0, 1}
    for batch in scorer.batches(QUERIES, DOCUMENTS, Q, D):
        assert batch.tokens is not None
        assert batch.tokens.tolist() == whole[batch.positions].tolist()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_scores_as_the_cpu(family: tuple[str, Path, PairScorer]) -> None:
    _, folder, full = family
    exact = full.score(QUERIES, DOCUMENTS, Q, D)
    for precision, bound in (("float32", 1e-4), ("auto", 0.2 * max(1.0, np.ptp(exact)))):
        scorer = PairScorer.load(folder, Rerank(device="cuda", precision=precision))
        found = scorer.score(QUERIES, DOCUMENTS, Q, D)
        assert np.abs(found - exact).max() < bound
