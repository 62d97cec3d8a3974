"""A judged tiny collection, and rerankers whose worth is known: perfect, useless, shuffled."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from reranking.evaluation.overlap import rankings_of
from reranking.fingerprints import text_hash
from reranking.runs.candidates import candidates_of
from reranking.runs.ranking import rank_results
from reranking.runs.run import Run
from reranking.scoring.crossencoder import CrossEncoderModel
from reranking.scoring.scorer import Batch
from tests.support import tiny

QUERIES = 40
LIMIT = 12
JUDGED = 3  # relevant documents per query

Score = Callable[[str, str], float]


@dataclass
class FakeScorer:
    """A scorer that says what a function says; `pairs` are those it was asked for."""

    function: Score
    pairs: list[tuple[str, str]]
    dtype: str = "float32"
    path: str = "fake"
    max_length: int = 48

    def score(self, queries: Sequence[str], documents: Sequence[str], q: Any, d: Any) -> Any:
        asked = [(queries[i], documents[j]) for i, j in zip(q, d, strict=True)]
        self.pairs += asked
        return np.array([self.function(*pair) for pair in asked], np.float32)

    def batches(
        self, queries: Sequence[str], documents: Sequence[str], q: Any, d: Any
    ) -> Iterator[Batch]:
        words = [len(f"{queries[i]} {documents[j]}".split()) for i, j in zip(q, d, strict=True)]
        yield Batch(np.arange(len(q)), self.score(queries, documents, q, d), np.array(words))


def use_scorer(monkeypatch: pytest.MonkeyPatch, function: Score) -> FakeScorer:
    """Every cross-encoder that is loaded from now on scores like the function."""
    scorer = FakeScorer(function, [])
    monkeypatch.setattr(CrossEncoderModel, "load", lambda self: scorer)
    return scorer


def refuse(*_: object, **__: object) -> Any:
    """Stand in for what a test must not reach."""
    raise AssertionError("this must not be called")


def shuffled(query: str, document: str) -> float:
    """A score without any meaning, always the same for the same texts."""
    return int.from_bytes(text_hash(query + document)[:3], "big") / 2**24


def collection(folder: Path, model: Path, **changes: Any) -> Path:
    """Documents and queries whose texts stand once, a config with judgments; the config's path."""
    documents = tiny.documents(80)
    for number, document in enumerate(documents):
        document["text"] += f" d{number}"
    tiny.write_jsonl(folder / "documents.jsonl", documents)
    rng = np.random.default_rng(3)
    asked = tiny.queries([f"{tiny.sentence(rng, 2, 8)} q{i}" for i in range(QUERIES)])
    for number, query in enumerate(asked):
        query["tags"] = ["odd" if number % 2 else "even"]
    tiny.write_jsonl(folder / "queries.jsonl", asked)
    (folder / "judgments.tsv").write_text("q000 0 d000 1\n")
    judgments = {
        "judgment_list": "j",
        "source": {"format": "trec", "path": "judgments.tsv"},
        "measures": ["nDCG@10", "RR@10"],
    }
    options = {"search__limit": LIMIT, "search__chunk_queries": 16, "judgments": judgments}
    return tiny.write_config(folder, model, **options | changes)


def encoder_folder(folder: Path, seed: int) -> Path:
    """A static word-embedding model of tiny.WIDTH numbers with random weights, saved."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = {"[UNK]": 0} | {word: i for i, word in enumerate(tiny.WORDS, 1)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    weights = np.random.default_rng(seed).normal(size=(len(words), tiny.WIDTH))
    module = StaticEmbedding(tokenizer, embedding_weights=weights.astype(np.float32))
    SentenceTransformer(modules=[module], device="cpu").save(str(folder))
    return folder


def encoded_collection(folder: Path, model: Path, encoder: Path, **changes: Any) -> Path:
    """`collection`, whose texts are encoded by the encoder; the config's path."""
    path = collection(folder, model, documents__encoder={"model": str(encoder)}, **changes)
    for name in ("documents.jsonl", "queries.jsonl"):
        rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        for row in rows:
            del row["vector"]
        tiny.write_jsonl(folder / name, rows)
    return path


def first_stage(run: Run, query_type: str = "hybrid") -> dict[str, list[str]]:
    """The first stage's rankings of one query type."""
    chunks = [candidates_of(run, chunk) for chunk in run.chunks]
    ranked = rank_results(
        pa.concat_tables(chunks), None, query_types=[query_type], limit=run.search.limit
    )
    return rankings_of(ranked)


def judge(folder: Path, ranking: dict[str, list[str]], judged: int = LIMIT) -> None:
    """Judge the first `judged` documents of each ranking: the first JUDGED of them are relevant."""
    lines = [
        f"{query_id} 0 {doc_id} {int(place < JUDGED)}\n"
        for query_id, documents in ranking.items()
        for place, doc_id in enumerate(documents[:judged])
    ]
    (folder / "judgments.tsv").write_text("".join(lines))
