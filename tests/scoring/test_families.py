"""Rerankers beyond one label score as CrossEncoder.predict of sentence-transformers does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.schema import Rerank
from reranking.errors import ConfigError, MissingPrerequisite
from reranking.models.fingerprint import fingerprint_reranker
from reranking.models.reranker import score_source
from reranking.reranker import CrossEncoderReranker
from reranking.scoring import load
from reranking.scoring.crossencoder import CrossEncoderModel, find_cross_encoder
from reranking.scoring.engines import Pairs
from reranking.scoring.generic import GenericEngine
from tests.support import model_zoo
from tests.support.families import FAMILIES, YES_NO, Build
from tests.support.hostile import edit
from tests.support.tiny import sentence

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(11)
QUERIES = ["river stone", "", "winter lamp garden", "naïve 東京 <pad> x"]
DOCUMENTS = [sentence(RNG, 6, 14), "lamp", "", "winter paper, signal! " * 30]
Q, D = (np.repeat(np.arange(4), 4), np.tile(np.arange(4), 4))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Build], Path]:
    made: dict[Build, Path] = {}

    def folder(build: Build) -> Path:
        if build not in made:
            made[build] = build(tmp_path_factory.mktemp("family") / "model")
        return made[build]

    return folder


def find(folder: Path, settings: Mapping[str, Any] | None = None) -> CrossEncoderModel:
    return find_cross_encoder(Rerank(model_name=str(folder), device="cpu", **(settings or {})))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_scores_as_predict(name: str, folders: Callable[[Build], Path]) -> None:
    from sentence_transformers import CrossEncoder

    family = FAMILIES[name]
    folder = folders(family.build)
    model = find(folder, family.settings)
    scores = model.load().score(QUERIES, DOCUMENTS, Q, D)
    pairs = [(QUERIES[q], DOCUMENTS[d]) for q, d in zip(Q, D, strict=True)]
    stock = CrossEncoder(
        str(family.stock_folder(folder)),
        device="cpu",
        max_length=model.max_length,
        model_kwargs={"dtype": torch.float32},
    )
    if getattr(stock.config, "pad_token_id", 0) is None:
        stock.config.pad_token_id = stock.tokenizer.pad_token_id
    expected = stock.predict(pairs, activation_fn=torch.nn.Identity(), **family.predict)
    expected = expected if family.column is None else expected[:, family.column]
    assert expected.shape == scores.shape
    assert np.std(expected) > 0.02  # a constant would prove nothing
    np.testing.assert_allclose(scores, expected, atol=1e-4)


@pytest.mark.parametrize("side", ["right", "left"])
def test_pairs_without_tokens_score_as_beside_others(
    side: str, tmp_path: Path, folders: Callable[[Build], Path]
) -> None:
    """Two empty texts, where a tokenizer adds nothing: predict scores them in mixed batches only"""
    from sentence_transformers import CrossEncoder

    folder = Path(shutil.copytree(folders(model_zoo.decoder_classifier), tmp_path / "model"))
    edit(folder / "tokenizer_config.json", padding_side=side)
    stock = CrossEncoder(str(folder), device="cpu")
    stock.config.pad_token_id = stock.tokenizer.pad_token_id
    with pytest.raises(RuntimeError, match="0 elements"):
        stock.predict([("", "")])
    pairs = [("", ""), ("river", "stone lamp")]
    expected = stock.predict(pairs, activation_fn=torch.nn.Identity())
    scorer = find(folder).load()
    one, two = np.zeros(1, np.int64), np.arange(2)
    assert scorer.path == "generic/cpu"
    alone = scorer.score([""], [""], one, one)
    both = scorer.score(["", "river"], ["", "stone lamp"], two, two)
    np.testing.assert_allclose(both, expected, atol=1e-4)
    np.testing.assert_allclose(alone, expected[:1], atol=1e-4)
    engine = GenericEngine(stock, None)  # whose tokenizer forms the pairs
    pair = engine.prepare(Pairs([""], [""], one, one))
    with torch.inference_mode():
        np.testing.assert_allclose(pair.run(one).numpy(), expected[:1], atol=1e-4)


DECODERS = ["decoder classifier", "LogitScore chain", "language model"]


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_never_exists_in_float32_if_that_is_not_asked(
    name: str, folders: Callable[[Build], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are of the wanted type when they come from the files, and scores are predict's.

    That is, of a CrossEncoder that is loaded in the type: rotary positions stay in float32.
    """
    from sentence_transformers import CrossEncoder

    types: list[set[Any]] = []
    own_weights = load.own_weights

    def seen(model: Any) -> None:
        types.append({p.dtype for p in model.parameters()})
        own_weights(model)

    monkeypatch.setattr(load, "own_weights", seen)
    build, settings, arguments, *_ = FAMILIES[name]
    folder = folders(build)
    asked = find(folder, {**settings, "precision": "bfloat16"})
    scorer = asked.load()
    find(folder, settings).load()
    assert types == [{torch.bfloat16}, {torch.float32}]
    kinds = {p.dtype for p in scorer._engine.model.parameters()}  # type: ignore[attr-defined]
    assert kinds == {torch.bfloat16}
    stock = CrossEncoder(
        str(folder),
        device="cpu",
        max_length=asked.max_length,
        model_kwargs={"dtype": torch.bfloat16},
    )
    if getattr(stock.config, "pad_token_id", 0) is None:
        stock.config.pad_token_id = stock.tokenizer.pad_token_id
    for q, d in list(zip(Q, D, strict=True))[
        :4
    ]:  # one by one: padding moves half precision's last digits
        pair = (QUERIES[q], DOCUMENTS[d])
        expected = stock.predict([pair], activation_fn=torch.nn.Identity(), **arguments)
        score = scorer.score([pair[0]], [pair[1]], Q[:1], D[:1])
        np.testing.assert_allclose(score, expected.astype(np.float32), atol=1e-3)


@pytest.mark.parametrize("name", [*DECODERS, "bert", "deberta"])
def test_scores_that_rounded_frequencies_gave_are_others(
    name: str, folders: Callable[[Build], Path]
) -> None:
    """Half scores of decoders have another name than before, and no other model's have."""
    build, settings, *_ = FAMILIES[name]
    for precision in ("float32", "bfloat16", "float16"):
        model = find(folders(build), {**settings, "precision": precision})
        source = score_source(model.folder.files, model.folder.chain, model.settings)
        before = fingerprint_reranker(
            model.folder.files,
            max_length=model.max_length,
            dtype=precision,
            prompt=source.prompt,
            settings=source.settings,
        )
        moved = precision != "float32" and name in DECODERS
        assert (model.fingerprint != before) is moved, precision


@pytest.mark.parametrize("name", DECODERS[1:])
def test_a_decoder_computes_the_logits_of_one_position(
    name: str, folders: Callable[[Build], Path]
) -> None:
    build, settings, *_ = FAMILIES[name]
    scorer: Any = find(folders(build), settings).load()
    shapes: list[int] = []
    head = scorer._engine.model.transformers_model.lm_head
    head.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape[1]))
    scorer.score(QUERIES, DOCUMENTS, Q, D)
    assert shapes and set(shapes) == {1}


def test_what_changes_scores_changes_the_fingerprint(folders: Callable[[Build], Path]) -> None:
    chain, labels = folders(model_zoo.logit_score), folders(model_zoo.three_labels)
    causal = folders(model_zoo.causal)
    models = [
        find(chain),
        find(chain, {"prompt": "a"}),
        find(chain, {"prompt_name": "facts"}),
        find(labels, {"label": 0}),
        find(labels, {"label": 1}),
        find(causal, {"answer_tokens": YES_NO}),
        find(causal, {"answer_tokens": {"positive": "yes"}}),
        find(causal, {"answer_tokens": {"positive": "true", "negative": "no"}}),
    ]
    assert len({model.fingerprint for model in models}) == len(models)
    by_name = find(labels, {"label": "maybe"})
    assert by_name.fingerprint == find(labels, {"label": 1}).fingerprint
    assert find(chain, {"prompt": "find the river and the stone"}).fingerprint == (
        find(chain, {"prompt_name": "facts"}).fingerprint
    )
    assert (find(chain).activation, by_name.activation) == ("sigmoid", "identity")


def test_one_answer_token_is_its_logit_alone(folders: Callable[[Build], Path]) -> None:
    folder = folders(model_zoo.causal)
    scores = {
        tokens: find(
            folder, {"answer_tokens": dict(zip(("positive", "negative"), tokens, strict=False))}
        )
        .load()
        .score(QUERIES, DOCUMENTS, Q, D)
        for tokens in (("yes", "no"), ("yes",), ("no",))
    }
    np.testing.assert_allclose(scores["yes", "no"], scores["yes",] - scores["no",], atol=1e-4)


REFUSED: dict[str, tuple[Build, dict[str, Any], str]] = {
    "a language model that declares no answer": (
        model_zoo.causal,
        {},
        "set rerank.answer_tokens",
    ),
    "no chat template": (
        lambda folder: model_zoo.causal(folder, template=None),
        {"answer_tokens": YES_NO},
        "has no chat template.*chat_template.jinja",
    ),
    "answer tokens beside a LogitScore": (
        model_zoo.logit_score,
        {"answer_tokens": YES_NO},
        "remove rerank.answer_tokens",
    ),
    "answer tokens for labels": (
        model_zoo.bert,
        {"answer_tokens": YES_NO},
        "remove rerank.answer_tokens",
    ),
    "several labels": (
        model_zoo.three_labels,
        {},
        r"3 labels, .*set rerank.label .*\(0: no, 1: maybe, 2: yes\)",
    ),
    "an unknown label": (model_zoo.three_labels, {"label": "si"}, "no label 'si'; its labels are"),
    "a label out of range": (model_zoo.three_labels, {"label": 3}, "no label 3"),
    "an unknown prompt": (
        model_zoo.logit_score,
        {"prompt_name": "x"},
        "no prompt 'x'; its prompts are 'facts', 'web'",
    ),
    "a prompt's name without prompts": (
        model_zoo.bert,
        {"prompt_name": "x"},
        "its prompts are none, or write one as rerank.prompt",
    ),
    "no padding token": (
        lambda folder: model_zoo.decoder_classifier(folder, pad=False),
        {},
        "has no padding token; add pad_token",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_says_too_little_is_refused_in_one_line(
    name: str, folders: Callable[[Build], Path]
) -> None:
    build, settings, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message) as caught:
        find(folders(build), settings)
    assert "\n" not in str(caught.value)


def test_an_answer_of_several_tokens_is_refused(folders: Callable[[Build], Path]) -> None:
    model = find(folders(model_zoo.causal), {"answer_tokens": {"positive": "yes yes"}})
    with pytest.raises(ConfigError, match="'yes yes', which is no single token"):
        model.load()


def test_a_template_that_would_be_cut_off_is_refused(
    tmp_path: Path, folders: Callable[[Build], Path]
) -> None:
    folder = Path(shutil.copytree(folders(model_zoo.logit_score), tmp_path / "model"))
    with pytest.raises(ConfigError, match="the chat template .* alone takes"):
        find(folder, {"max_length": 16}).load()
    edit(
        folder / "sentence_bert_config.json",
        processing_kwargs={"chat_template": {"restore_suffix": False}},
    )
    with pytest.raises(ConfigError, match="is cut off from long pairs; remove restore_suffix"):
        find(folder).load()


def test_weights_of_every_module_must_be_there(
    tmp_path: Path, folders: Callable[[Build], Path]
) -> None:
    from safetensors.torch import load_file, save_file

    original = folders(model_zoo.dense_chain)
    listed = json.loads((original / "modules.json").read_text())
    paths = [m["path"] for m in listed if "Dense" in m["type"] or "LayerNorm" in m["type"]]
    assert len(paths) == 3
    for i, path in enumerate(paths):
        folder = Path(shutil.copytree(original, tmp_path / f"without{i}"))
        (folder / path / "model.safetensors").unlink()
        with pytest.raises(MissingPrerequisite, match=f"{path} has no model.safetensors"):
            find(folder)
        folder = Path(shutil.copytree(original, tmp_path / f"partly{i}"))
        weights = load_file(folder / path / "model.safetensors")
        weights.popitem()
        save_file(weights, folder / path / "model.safetensors")
        with pytest.raises(MissingPrerequisite, match="could not be loaded"):
            find(folder).load()
    folder = Path(
        shutil.copytree(folders(FAMILIES["language model, untied"].build), tmp_path / "lm")
    )
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"no weights for lm_head\.weight"):
        find(folder, {"answer_tokens": YES_NO}).load()


def test_a_chain_without_a_score_is_refused(
    tmp_path: Path, folders: Callable[[Build], Path]
) -> None:
    folder = Path(shutil.copytree(folders(model_zoo.dense_chain), tmp_path / "model"))
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:-1]))
    with pytest.raises(ConfigError, match="its last module, LayerNorm, gives no score"):
        find(folder)


def test_a_label_and_a_prompt_reach_the_drop_in(folders: Callable[[Build], Path]) -> None:
    labels = CrossEncoderReranker(str(folders(model_zoo.three_labels)), device="cpu", label="yes")
    assert (
        labels.model.fingerprint == find(folders(model_zoo.three_labels), {"label": 2}).fingerprint
    )
    prompted = CrossEncoderReranker(str(folders(model_zoo.logit_score)), prompt="a", device="cpu")
    assert prompted.model.fingerprint == (
        find(folders(model_zoo.logit_score), {"prompt": "a"}).fingerprint
    )
    with pytest.raises(ConfigError, match="prompt and prompt_name"):
        CrossEncoderReranker(str(folders(model_zoo.bert)), prompt="a", prompt_name="b")
