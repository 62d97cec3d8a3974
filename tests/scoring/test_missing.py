"""Weights that the files lack are never made up: a model that lacks some is refused."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.documents import Encoder
from configs.schema import Rerank
from reranking.errors import ConfigError
from reranking.scoring.crossencoder import find_cross_encoder
from reranking.scoring.encoder import SentenceEncoder
from reranking.scoring.scorer import Scorer
from tests.support import model_zoo
from tests.support.hostile import edit

torch = pytest.importorskip("torch")


def without(folder: Path, *parts: str) -> Path:
    """Take the tensors whose names hold one of the parts out of the weights."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    kept = {n: t for n, t in weights.items() if not any(part in n for part in parts)}
    assert len(kept) < len(weights)
    save_file(kept, path, metadata={"format": "pt"})
    return folder


def load(folder: Path, **settings: Any) -> Scorer:
    return find_cross_encoder(Rerank(model_name=str(folder), device="cpu", **settings)).load()


LACKING: list[tuple[Callable[[Path], Path], str, str]] = [
    (model_zoo.bert, "layer.1.output", "no weights for bert.encoder.layer.1.output.LayerNorm.bias"),
    (model_zoo.bert, "pooler", "no weights for bert.pooler.dense.bias, bert.pooler.dense.weight: "),
    (model_zoo.bert, "token_type_embeddings", "of another model than config.json says"),
    (model_zoo.modernbert, "layers.0.mlp.Wi", "no weights for model.layers.0.mlp.Wi.weight: "),
    (model_zoo.deberta, "rel_embeddings", "no weights for deberta.encoder.rel_embeddings.weight"),
    (model_zoo.decoder_classifier, "layers.1.self_attn.k_proj", "no weights for model.layers.1"),
    (model_zoo.decoder_classifier, "score", "no weights for score.weight: .* never trained"),
    (model_zoo.dense_chain, "layers.1.attn.Wo", "no weights for layers.1.attn.Wo.weight"),
    (model_zoo.logit_score, "layers.0.mlp", "gate_proj.weight, .*: its files are incomplete"),
]


@pytest.mark.parametrize(("build", "part", "words"), LACKING)
def test_a_reranker(build: Callable[[Path], Path], part: str, words: str, tmp_path: Path) -> None:
    folder = without(build(tmp_path / "model"), part)
    with pytest.raises(ConfigError, match=words) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_an_adapter_does_not_hide_what_its_base_lacks(tmp_path: Path) -> None:
    folder = model_zoo.lora(tmp_path / "adapter")
    load(folder)
    without(tmp_path / "base", "layer.0.attention.self.key")
    with pytest.raises(ConfigError, match=r"layer\.0\.attention\.self\.key"):
        load(folder)


def test_tied_weights_are_not_missing(tmp_path: Path) -> None:
    folder = model_zoo.causal(tmp_path / "model", tied=True)
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys()
    load(folder, answer_tokens={"positive": "yes"})


def test_an_encoder(tmp_path: Path) -> None:
    """Only its pooler may be missing: the vectors are pooled from its tokens."""
    original = model_zoo.tiny_encoder(tmp_path)
    expected = SentenceEncoder(Encoder(model=str(original), device="cpu")).encode_queries(["river"])
    for part, lacks in (("pooler", False), ("layer.1.attention.self.value", True)):
        folder = Path(shutil.copytree(original, tmp_path / f"without {part}"))
        encoder = SentenceEncoder(Encoder(model=str(without(folder, part)), device="cpu"))
        if lacks:
            with pytest.raises(ConfigError, match=rf"no weights for encoder\.{part}"):
                encoder.encode_queries(["river"])
        else:
            np.testing.assert_allclose(encoder.encode_queries(["river"]), expected, atol=1e-6)


def test_models_that_others_load_meanwhile_are_their_business(tmp_path: Path) -> None:
    """And their arguments stay as they are, also after an error."""
    from transformers import AutoModel, PreTrainedModel

    from reranking.models.files import read_model_files
    from reranking.scoring.missing import complete_weights

    stock = PreTrainedModel.__dict__["from_pretrained"]
    lacking = without(model_zoo.bert(tmp_path / "lacking"), "layer.1")
    logging.getLogger("transformers").setLevel(logging.CRITICAL)
    with complete_weights(read_model_files(lacking)):
        other = threading.Thread(target=AutoModel.from_pretrained, args=(lacking,))
        other.start()
        other.join()
        assert AutoModel.from_pretrained(lacking, output_loading_info=True)[1]["missing_keys"]
    with pytest.raises(ConfigError), complete_weights(read_model_files(lacking)):
        AutoModel.from_pretrained(lacking)
    edit(lacking / "config.json", hidden_size=16)
    with pytest.raises(RuntimeError), complete_weights(read_model_files(lacking)):
        AutoModel.from_pretrained(lacking)
    assert PreTrainedModel.__dict__["from_pretrained"] is stock
