"""What a run will cost, from a sample of its queries: pairs, hours, disk. Nothing is stored."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from configs.schema import Search
from reranking.corpus.corpus import Corpus, texts_of
from reranking.runs.pairs import PairScores, distinct_pairs
from reranking.runs.search import (
    QueryEncoder,
    check_vectors,
    query_vectors,
    search_chunk,
)
from reranking.scoring.scorer import Scorer
from reranking.store import Database

_SHARE, _LEAST, _MOST = 0.01, 5, 200  # queries of the sample
_PAIRS = 64  # of the sample's pairs that are scored, to know how fast the model is
# Bytes that a row takes on disk, measured on the quickstart's tables (docs/scale.md).
PAIR_BYTES, CANDIDATE_BYTES, RESULT_BYTES = 25, 46, 29


@dataclass(frozen=True)
class Estimate:
    """What the whole query set will need, scaled up from `sampled` queries.

    `to_score` are pairs that no earlier run has scored; hours are those of scoring, None where
    nothing has to be scored.
    """

    queries: int
    sampled: int
    candidates: int
    pairs: int
    to_score: int
    pairs_per_second: float | None
    hours: float | None
    gigabytes: float


def estimate(
    database: Database,
    corpus: Corpus,
    queries: pa.Table,
    search: Search,
    encoder: QueryEncoder | None,
    reranker: tuple[bytes, Callable[[], Scorer]] | None,
) -> Estimate:
    """Search 1 % of the queries (5 to 200 of them), score a few pairs, and scale up.

    `reranker` is a fingerprint and how to load the model, None for a run of the first stage.
    """
    sample = _sample(queries)
    vectors = None
    if "vector" in search.legs:
        vectors = query_vectors(sample, encoder, check_vectors(database, corpus))
    hits = search_chunk(database, corpus, sample, vectors, search)
    pairs = distinct_pairs(hits)
    missing, rate = 0, None
    if reranker is not None:
        fingerprint, load = reranker
        hashes = sample.column("text_hash").to_pylist()
        new = PairScores(database, fingerprint, hashes).missing(pairs)
        missing = len(new)
        rate = _rate(database, corpus, sample, new, load) if missing else None
    scale = queries.num_rows / max(sample.num_rows, 1)
    to_score = round(missing * scale)
    candidates = round(hits.num_rows * scale)
    size = to_score * PAIR_BYTES + candidates * (
        CANDIDATE_BYTES + len(search.query_types) * RESULT_BYTES
    )
    return Estimate(
        queries=queries.num_rows,
        sampled=sample.num_rows,
        candidates=candidates,
        pairs=round(len(pairs) * scale),
        to_score=to_score,
        pairs_per_second=rate,
        hours=None if rate is None else to_score / rate / 3600,
        gigabytes=size / 1e9,
    )


def _sample(queries: pa.Table) -> pa.Table:
    """Queries spread evenly over the set, always the same ones."""
    count = min(max(round(queries.num_rows * _SHARE), _LEAST), _MOST, queries.num_rows)
    rows = np.linspace(0, queries.num_rows - 1, count).round().astype(np.int64)
    return queries.sort_by("query_id").take(pa.array(np.unique(rows)))


def _rate(
    database: Database,
    corpus: Corpus,
    queries: pa.Table,
    pairs: pl.DataFrame,
    load: Callable[[], Scorer],
) -> float:
    """Pairs per second, of a few pairs spread over the sample's lengths; loading aside."""
    chosen = pairs.sample(min(_PAIRS, len(pairs)), seed=0)
    ids = chosen["doc_id"].unique().to_list()
    texts = texts_of(database, corpus, ids)
    by_hash = dict(zip(queries["text_hash"].to_pylist(), queries["text"].to_pylist(), strict=True))
    asked = [by_hash[h] for h in chosen["query_hash"].to_list()]
    documents = [texts.get(i, "") for i in chosen["doc_id"].to_list()]
    index = np.arange(len(chosen))
    scorer = load()
    scorer.score(asked[:4], documents[:4], index[:4], index[:4])  # first calls are slower
    started = time.monotonic()
    scorer.score(asked, documents, index, index)
    return len(chosen) / max(time.monotonic() - started, 1e-9)
