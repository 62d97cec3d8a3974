"""The encoder: the fast path gives the stock model's vectors, and nothing else uses it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from configs.documents import Encoder
from reranking.scoring.encoder import SentenceEncoder
from reranking.scoring.fast_encoder import fast_encoder
from tests.support import judged
from tests.support.hostile import chain
from tests.support.model_zoo import tiny_encoder

TEXTS = ["river stone", "", "winter lamp garden " * 40, "a", "violin, harbor!", "river stone"]


@pytest.mark.parametrize(("pooling", "normalise"), [("mean", True), ("cls", False)])
def test_the_fast_path_gives_the_stock_vectors(
    tmp_path: Path, pooling: str, normalise: bool
) -> None:
    from sentence_transformers import SentenceTransformer

    folder = tiny_encoder(tmp_path, pooling, normalise)
    stock = SentenceTransformer(str(folder), device="cpu")
    fast = fast_encoder(stock)
    assert fast is not None
    expected = stock.encode(TEXTS, convert_to_numpy=True, show_progress_bar=False)
    found = fast.encode(TEXTS)
    assert np.allclose(found, expected, atol=1e-5)
    assert np.array_equal(found[0], found[5])
    for text, vector in zip(TEXTS, found, strict=True):
        assert np.allclose(fast.encode([text])[0], vector, atol=1e-5)
    assert fast.encode([]).shape == (0, 32)


def test_another_pooling_takes_the_stock_path(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = tiny_encoder(tmp_path, "max")
    assert fast_encoder(SentenceTransformer(str(folder), device="cpu")) is None
    encoder = SentenceEncoder(Encoder(model=str(folder), device="cpu"))
    assert encoder.encode_queries(TEXTS).shape == (6, 32)


def test_a_wrong_fast_path_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sentence_transformers import SentenceTransformer

    from reranking.scoring.fast_encoder import FastEncoder

    right = FastEncoder.encode
    monkeypatch.setattr(FastEncoder, "encode", lambda self, texts: right(self, texts) + 1e-3)
    stock = SentenceTransformer(str(tiny_encoder(tmp_path)), device="cpu")
    assert fast_encoder(stock) is None


def test_prompts_and_dimensions_change_the_fingerprint_and_the_vectors(tmp_path: Path) -> None:
    folder = str(tiny_encoder(tmp_path))
    plain = SentenceEncoder(Encoder(model=folder, device="cpu"))
    prompted = SentenceEncoder(Encoder(model=folder, device="cpu", query_prompt="river "))
    short = SentenceEncoder(Encoder(model=folder, device="cpu", truncate_dim=16))
    names = {e.fingerprint for e in (plain, prompted, short)}
    assert len(names) == 3
    assert np.allclose(
        prompted.encode_queries(["lamp"]), plain.encode_queries(["river lamp"]), atol=1e-5
    )
    assert short.encode_documents(["lamp"]).shape == (1, 16)
    assert (plain.dimension, short.dimension) == (32, 16)
    again = SentenceEncoder(Encoder(model=folder, device="cpu", batch_size=1))
    assert again.fingerprint == plain.fingerprint


def test_the_fingerprint_needs_no_model(tmp_path: Path) -> None:
    encoder = SentenceEncoder(Encoder(model=str(tiny_encoder(tmp_path))))
    assert "_model" not in encoder.__dict__


def test_weights_in_a_modules_folder_are_found(tmp_path: Path) -> None:
    """As earlier versions of sentence-transformers saved a StaticEmbedding, and as a Router has."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router

    plain = judged.encoder_folder(tmp_path / "static", seed=1)
    expected = SentenceEncoder(Encoder(model=str(plain))).encode_queries(TEXTS)
    inner = tmp_path / "nested" / "0_StaticEmbedding"
    inner.mkdir(parents=True)
    for name in ("model.safetensors", "tokenizer.json"):
        shutil.copy(plain / name, inner)
    chain(inner.parent, ("StaticEmbedding", "0_StaticEmbedding"))
    parts = {
        task: [SentenceTransformer(str(judged.encoder_folder(tmp_path / task, seed)))[0]]
        for task, seed in (("query", 1), ("document", 2))
    }
    router = SentenceTransformer(
        modules=[
            Router.for_query_document(
                **{f"{task}_modules": modules for task, modules in parts.items()}
            )
        ],
        device="cpu",
    )
    router.save(str(tmp_path / "router"))
    for name in ("nested", "router"):
        encoder = SentenceEncoder(Encoder(model=str(tmp_path / name)))
        assert np.allclose(encoder.encode_queries(TEXTS), expected, atol=1e-6)
    other = router.encode_document(TEXTS)
    assert np.allclose(encoder.encode_documents(TEXTS), other, atol=1e-6)
    assert not np.allclose(other, expected)
    router_config = tmp_path / "router" / "router_config.json"
    before = encoder.fingerprint
    text = router_config.read_text()
    router_config.write_text(text.replace("query_0", "x").replace("document_0", "query_0"))
    (tmp_path / "router" / "x_StaticEmbedding").mkdir()
    for name in ("model.safetensors", "tokenizer.json"):
        shutil.copy(plain / name, tmp_path / "router" / "x_StaticEmbedding")
    assert SentenceEncoder(Encoder(model=str(tmp_path / "router"))).fingerprint != before
