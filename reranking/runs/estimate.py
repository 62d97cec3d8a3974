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
from reranking.runs.rates import scoring_rate
from reranking.runs.search import (
    QueryEncoder,
    check_vectors,
    query_vectors,
    search_chunk,
)
from reranking.scoring.crossencoder import Reranker
from reranking.scoring.scorer import Scorer
from reranking.scoring.served import ServedModel, count_requests
from reranking.store import Database

_SHARE, _LEAST, _MOST = 0.01, 5, 200  # queries of the sample
_PAIRS = 64  # of the sample's pairs that are scored, to know how fast the model is
# Bytes that a row takes on disk, measured on the quickstart's tables (docs/scale.md).
PAIR_BYTES, CANDIDATE_BYTES, RESULT_BYTES = 25, 46, 29


@dataclass(frozen=True)
class Estimate:
    """What the whole query set will need, scaled up from `sampled` queries.

    `to_score` are pairs that no earlier run has scored; hours are those of scoring, None where
    nothing has to be scored or nobody knows how fast that is. `truncated` is the share of
    `measured` pairs that are longer than the model reads, None if no length is known. `sent` says
    what would leave this machine, None without a server.
    """

    queries: int
    sampled: int
    candidates: int
    pairs: int
    to_score: int
    pairs_per_second: float | None
    hours: float | None
    gigabytes: float
    measured: int = 0
    truncated: float | None = None
    sent: Sent | None = None


@dataclass(frozen=True)
class Sent:
    """What a run sends to a server of rerankers: the texts of `pairs`, in so many requests."""

    to: str
    model: str
    pairs: int
    requests: int
    characters: int


def estimate(
    database: Database,
    corpus: Corpus,
    queries: pa.Table,
    search: Search,
    encoder: QueryEncoder | None,
    reranker: Reranker | None,
) -> Estimate:
    """Search 1 % of the queries (5 to 200 of them), score a few pairs, and scale up.

    `reranker` is None for a run of the first stage. Nothing is sent to a server: how fast it is,
    earlier runs tell.
    """
    sample = _sample(queries)
    vectors = None
    if "vector" in search.legs:
        vectors = query_vectors(sample, encoder, check_vectors(database, corpus))
    hits = search_chunk(database, corpus, sample, vectors, search)
    pairs = distinct_pairs(hits)
    missing, rate, sent, tokens, limit = 0, None, None, pl.Series([], dtype=pl.Int32), None
    scale = queries.num_rows / max(sample.num_rows, 1)
    if reranker is not None:
        hashes = sample.column("text_hash").to_pylist()
        store = PairScores(database, reranker.fingerprint, hashes)
        new, limit = store.missing(pairs), reranker.max_length
        tokens = store.tokens_of(pairs)["tokens"].drop_nulls()
        missing = len(new)
        if isinstance(reranker, ServedModel):
            rate = scoring_rate(database, reranker.fingerprint.hex()) if missing else None
            sent = _sent(database, corpus, sample, new, reranker, scale)
        elif missing:
            rate, counted = _rate(database, corpus, sample, new, reranker.load)
            tokens = pl.concat([tokens, counted])
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
        measured=len(tokens),
        truncated=int((tokens > limit).sum()) / len(tokens) if limit and len(tokens) else None,
        sent=sent,
    )


def _sent(
    database: Database,
    corpus: Corpus,
    queries: pa.Table,
    pairs: pl.DataFrame,
    model: ServedModel,
    scale: float,
) -> Sent:
    """What would be sent for the pairs of the sample, times `scale`."""
    ids = pairs["doc_id"].to_list()
    texts = texts_of(database, corpus, sorted(set(ids)))
    asked = dict(zip(queries["text_hash"].to_pylist(), queries["text"].to_pylist(), strict=True))
    at = {query: i for i, query in enumerate(asked)}
    hashes = pairs["query_hash"].to_list()
    requests = count_requests(model.api, np.array([at[h] for h in hashes], np.int64))
    characters = sum(
        len(asked[h]) + len(texts.get(i, "")) for h, i in zip(hashes, ids, strict=True)
    )
    return Sent(
        model.api.url,
        model.name,
        round(len(pairs) * scale),
        round(requests * scale),
        round(characters * scale),
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
) -> tuple[float, pl.Series]:
    """Pairs per second, of a few pairs spread over the sample's lengths, and their tokens.

    Loading aside; tokens are left out where they are not known.
    """
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
    batches = [tuple(batch) for batch in scorer.batches(asked, documents, index, index)]
    rate = len(chosen) / max(time.monotonic() - started, 1e-9)
    tokens = [pl.Series(t, dtype=pl.Int32) for b in batches for t in b[2:] if t is not None]
    return rate, pl.concat([pl.Series([], dtype=pl.Int32), *tokens])
