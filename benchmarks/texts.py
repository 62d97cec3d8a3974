"""What is measured on: real texts, a mix of lengths made from them, vectors that need no model."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from benchmarks.engine import LENGTH, relengthened
from reranking.models.resolve import resolve_model

WIDTH = 384


@dataclass(frozen=True)
class Texts:
    """Documents and queries under a name."""

    name: str
    documents: list[str]
    queries: list[str]

    def asked(self, first: int, count: int) -> list[str]:
        """`count` queries from number `first` on, from the start again after the last."""
        return [self.queries[(first + i) % len(self.queries)] for i in range(count)]


def beir(folder: Path, documents: int) -> Texts:
    """Some documents, and the queries that LanceDB's FTS takes as they are (no double quotes)."""
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").open(encoding="utf-8")]
    texts = [f"{r.get('title') or ''} {r['text']}".strip() for r in rows]
    rng = np.random.default_rng(0)
    rng.shuffle(texts)
    lines = (folder / "queries.jsonl").open(encoding="utf-8")
    queries = sorted({json.loads(line)["text"] for line in lines})
    rng.shuffle(queries)
    return Texts(folder.name, texts[:documents], [q for q in queries if '"' not in q])


def mixed(of: list[Texts], documents: int) -> Texts:
    """Pieces of all the documents, between a line and several pages; the first text's queries."""
    rng = np.random.default_rng(1)
    text = " ".join(d for texts in of for d in texts.documents)
    return Texts("mixed", relengthened(text, documents, rng), of[0].queries)


def vectors(texts: list[str]) -> np.ndarray:
    """(n, 384) unit vectors of random directions per word: near where texts share words."""
    words = np.random.default_rng(2).normal(size=(4096, WIDTH)).astype(np.float32)
    found = np.zeros((len(texts), WIDTH), np.float32)
    for i, text in enumerate(texts):
        places = [crc32(w.encode()) % 4096 for w in re.findall(r"\w+", text.lower())] or [0]
        found[i] = words[places].sum(0)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def model_of_512(name: str, folder: Path) -> Path:
    """A copy of the model whose model_max_length is 512, as published rerankers have it."""
    shutil.copytree(resolve_model(name).path, folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": LENGTH}))
    return folder


def random_job(folder: Path, documents: int, queries: int, model: str, **changes: object) -> Path:
    """Write a job over documents of a few dozen random words; its config, with these changes."""
    from tests.support import tiny

    rng = np.random.default_rng(5)
    rows = tiny.documents(documents)
    for row in rows:
        row["text"] = tiny.sentence(rng, 20, 180)
    asked = [tiny.sentence(rng, 2, 7) for _ in range(queries)]
    tiny.write_jsonl(folder / "documents.jsonl", rows)
    tiny.write_jsonl(folder / "queries.jsonl", tiny.queries(asked))
    return tiny.write_config(folder, Path(model), rerank={"model_name": model}, **changes)
