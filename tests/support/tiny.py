"""Small stand-ins: a cross-encoder with random weights, a corpus of few words, query vectors."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

WORDS = (
    "river stone bridge lamp garden winter paper signal copper orchard violin harbor candle "
    "meadow engine falcon mirror ladder pepper compass anchor thunder velvet marble walnut"
).split()
WIDTH = 8


def tiny_cross_encoder(
    folder: Path, *, max_length: int = 48, activation: str = "Identity", seed: int = 7
) -> Path:
    """A one-label BERT of two layers with seeded random weights, saved as people save theirs."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = specials + WORDS + list(letters) + [f"##{c}" for c in letters] + list(".,?!'\"-")
    tokens = {t: i for i, t in enumerate(dict.fromkeys(vocabulary))}
    tokenizer = Tokenizer(models.WordPiece(tokens, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(
        ("[SEP]", tokens["[SEP]"]), ("[CLS]", tokens["[CLS]"])
    )
    fast = BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=1,
        initializer_range=0.3,
    )
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    saved = json.loads((folder / "config.json").read_text())
    name = f"torch.nn.modules.{'linear' if activation == 'Identity' else 'activation'}.{activation}"
    saved["sentence_transformers"] = {"activation_fn": name}
    (folder / "config.json").write_text(json.dumps(saved))
    return folder


def sentence(rng: np.random.Generator, least: int = 2, most: int = 14) -> str:
    """A few words of the tiny vocabulary."""
    return " ".join(rng.choice(WORDS, size=rng.integers(least, most)))


def vector(rng: np.random.Generator) -> list[float]:
    """A unit vector of WIDTH numbers."""
    values = rng.normal(size=WIDTH).astype(np.float32)
    return [float(v) for v in values / np.linalg.norm(values)]


def documents(count: int = 60, seed: int = 1) -> list[dict[str, Any]]:
    """Documents that bring their vectors."""
    rng = np.random.default_rng(seed)
    return [
        {"doc_id": f"d{i:03d}", "title": f"t{i}", "text": sentence(rng), "vector": vector(rng)}
        for i in range(count)
    ]


def queries(texts: Iterable[str], seed: int = 2) -> list[dict[str, Any]]:
    """Queries that bring their vectors."""
    rng = np.random.default_rng(seed)
    return [
        {"query_id": f"q{i:03d}", "text": text, "vector": vector(rng)}
        for i, text in enumerate(texts)
    ]


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """One JSON object per line."""
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    return path


def write_config(folder: Path, model: Path, **changes: Any) -> Path:
    """A config for documents.jsonl and queries.jsonl of the folder; `a__b=value` changes a.b."""
    config: dict[str, Any] = {
        "database": "db.lancedb",
        "documents": {"source": {"format": "jsonl", "path": "documents.jsonl"}},
        "queries": {"query_set": "q", "source": {"format": "jsonl", "path": "queries.jsonl"}},
        "search": {"limit": 10},
        "rerank": {"model_name": str(model), "return_score": "all"},
    }
    for key, value in changes.items():
        *parents, last = key.split("__")
        part = config
        for name in parents:
            part = part.setdefault(name, {})
        part[last] = value
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path
