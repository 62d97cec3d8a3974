"""Mining: the selection is the one of sentence-transformers' own hard negatives."""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from configs.labelling import Training
from reranking.fingerprints import text_hash
from reranking.labelling.mining import Miner
from reranking.labelling.training import examples
from tests.support.mined import judgments_of, pairs_of

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

Collection = tuple[dict[str, str], dict[str, str], list[tuple[str, str]]]
WORDS = 60


@pytest.fixture(scope="module")
def model() -> SentenceTransformer:
    """A static word-embedding model with random weights: real sentence-transformers, no file."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({f"w{n}": n for n in range(WORDS)}, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    torch.manual_seed(0)
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=24)], device="cpu")


class FakeCrossEncoder:
    """Logits that depend on the pair's texts only, of either sign."""

    def predict(
        self, pairs: Iterable[tuple[str, str]], convert_to_tensor: bool = False, **_: Any
    ) -> torch.Tensor:
        import torch

        return torch.tensor([self.score(*pair) for pair in pairs], dtype=torch.float32)

    @staticmethod
    def score(query: str, document: str) -> float:
        raw = int.from_bytes(text_hash(query + "|" + document)[:4], "big") / 2**32
        return float(np.float32(raw * 12 - 8))


@pytest.fixture(scope="module")
def collection() -> Collection:
    """30 queries, one to three positives each that share most of its words, 80 documents."""
    random = np.random.default_rng(0)

    def text(words: Sequence[str] = ()) -> str:
        rest = random.integers(0, WORDS, 6 - len(words))
        return " ".join([*words, *(f"w{n}" for n in rest)])

    queries = {f"q{n:02}": text() for n in range(30)}
    documents, positives = {}, []
    for query, words in queries.items():
        for _ in range(random.integers(1, 4)):
            positives.append((query, f"d{len(documents):02}"))
            documents[f"d{len(documents):02}"] = text(words.split()[:3])
    while len(documents) < 80:
        documents[f"d{len(documents):02}"] = text()
    positives.append(("q00", positives[-1][1]))  # one document answers two queries
    return queries, documents, positives


def stored_scores(
    model: SentenceTransformer, collection: Collection, cross_encoder: bool
) -> pa.Table:
    """Every query against every document, scored as sentence-transformers will score it."""
    queries, documents, _ = collection
    if cross_encoder:
        return pairs_of(
            [
                (q, d, FakeCrossEncoder.score(a, b))
                for q, a in queries.items()
                for d, b in documents.items()
            ]
        )
    scores = model.similarity(
        model.encode_query(list(queries.values()), normalize_embeddings=True),
        model.encode_document(list(documents.values()), normalize_embeddings=True),
    ).numpy()
    return pairs_of(
        [(q, d, scores[i, j]) for i, q in enumerate(queries) for j, d in enumerate(documents)]
    )


def theirs(
    model: SentenceTransformer,
    collection: Collection,
    output_format: str,
    cross_encoder: bool,
    output_scores: bool = False,
    **parameters: Any,
) -> Iterable[Mapping[str, Any]]:
    from datasets import Dataset
    from sentence_transformers.util import mine_hard_negatives

    queries, documents, positives = collection
    return mine_hard_negatives(
        Dataset.from_dict(
            {
                "query": [queries[q] for q, _ in positives],
                "answer": [documents[d] for _, d in positives],
            }
        ),
        model,
        corpus=list(documents.values()),
        cross_encoder=FakeCrossEncoder() if cross_encoder else None,
        output_format=output_format,
        output_scores=output_scores,
        verbose=False,
        **parameters,
    )


def ours(
    model: SentenceTransformer,
    collection: Collection,
    output_format: str,
    cross_encoder: bool,
    output_scores: bool = False,
    **parameters: Any,
) -> Iterable[Mapping[str, Any]]:
    queries, documents, positives = collection
    mining = Training(**parameters)
    mined = Miner(mining, judgments_of(positives)).mine(
        stored_scores(model, collection, cross_encoder)
    )
    return examples(
        mined,
        output_format,
        num_negatives=mining.num_negatives,
        queries=queries,
        documents=documents,
        output_scores=output_scores,
    ).data


def multiset(rows: Iterable[Mapping[str, Any]]) -> collections.Counter[tuple[Any, ...]]:
    """The rows as a multiset; scores to five digits."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return tuple(plain(one) for one in value)
        return round(value, 5) if isinstance(value, float) else value

    return collections.Counter(tuple(plain(v) for v in row.values()) for row in rows)


PARAMETERS = [
    {},
    {"num_negatives": 1},
    {"range_min": 5, "num_negatives": 4},
    {"range_min": 2, "range_max": 7, "num_negatives": 5},
    {"range_min": 2, "range_max": 5, "num_negatives": 3, "sampling_strategy": "random"},
    {"max_score": 0.2},
    {"min_score": 0.1, "num_negatives": 8},
    {"absolute_margin": 0.05},
    {"relative_margin": 0.05},
    {"relative_margin": 0.3, "range_max": 20, "num_negatives": 10},
    {
        "absolute_margin": 0.1,
        "relative_margin": 0.1,
        "max_score": 0.4,
        "min_score": -0.2,
        "range_min": 1,
        "num_negatives": 6,
    },
]


@pytest.mark.parametrize("parameters", PARAMETERS, ids=str)
def test_the_selection_is_sentence_transformers(
    model: SentenceTransformer, collection: Collection, parameters: dict[str, Any]
) -> None:
    expected = theirs(model, collection, "triplet", False, **parameters)
    found = ours(model, collection, "triplet", False, **parameters)
    assert len(expected) > 20
    assert multiset(found.to_pylist()) == multiset(expected.to_list())


CROSS_ENCODED = [
    {"absolute_margin": 1.0},
    {"relative_margin": 0.2},
    {"max_score": 1.0, "range_min": 3},
    {"min_score": -4.0, "max_score": 2.0, "relative_margin": 0.05, "num_negatives": 7},
]


@pytest.mark.parametrize("parameters", CROSS_ENCODED, ids=str)
def test_the_selection_is_theirs_on_cross_encoder_logits(
    model: SentenceTransformer, collection: Collection, parameters: dict[str, Any]
) -> None:
    """Their window by the embedding model is opened to the whole corpus, where both score all."""
    parameters = {"range_max": 80, **parameters}
    expected = theirs(model, collection, "triplet", True, **parameters)
    found = ours(model, collection, "triplet", True, **parameters)
    assert len(expected) > 20
    assert multiset(found.to_pylist()) == multiset(expected.to_list())


@pytest.mark.parametrize("output_scores", [False, True])
@pytest.mark.parametrize("kind", ["triplet", "n-tuple", "labeled-pair", "labeled-list"])
def test_every_format_has_their_rows(
    model: SentenceTransformer, collection: Collection, kind: str, output_scores: bool
) -> None:
    parameters = {"relative_margin": 0.3, "num_negatives": 4, "range_max": 30}
    expected = theirs(model, collection, kind, False, output_scores, **parameters)
    found = ours(model, collection, kind, False, output_scores, **parameters)
    assert len(expected) > 20
    assert multiset(found.to_pylist()) == multiset(expected.to_list())
    labels = {"label", "labels", "score", "scores"}
    names = [set(table.column_names) & labels for table in (found, expected)]
    assert names[0] == names[1]
