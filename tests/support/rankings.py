"""Rankings and judgments as a comparison reads them, made by hand or drawn at random."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from reranking.evaluation.comparable import SideTables
from reranking.fingerprints import text_hash

Rankings = dict[str, list[str]]
Qrels = dict[str, dict[str, int]]


def hashes(texts: list[str]) -> pa.Array:
    return pa.array([text_hash(t) for t in texts], pa.binary(16))


def side(
    name: str,
    rankings: Rankings,
    *,
    queries: dict[str, str] | None = None,
    documents: dict[str, str] | None = None,
    query_types: tuple[str, ...] = ("hybrid",),
) -> SideTables:
    """A run over `rankings`; queries and documents are named by their ids unless given."""
    rows = [
        (q, t, d, r)
        for t in query_types
        for q, docs in rankings.items()
        for r, d in enumerate(docs, 1)
    ]
    texts = queries if queries is not None else {q: q for q in rankings}
    corpus = (
        documents if documents is not None else {d: d for docs in rankings.values() for d in docs}
    )
    return SideTables(
        name,
        pa.table(
            {
                "query_id": pa.array([r[0] for r in rows], pa.string()),
                "query_type": pa.array([r[1] for r in rows], pa.string()),
                "doc_id": pa.array([r[2] for r in rows], pa.string()),
                "rank": pa.array([r[3] for r in rows], pa.int32()),
            }
        ),
        pa.table({"query_id": list(texts), "text_hash": hashes(list(texts.values()))}),
        pa.table({"doc_id": list(corpus), "text_hash": hashes(list(corpus.values()))}),
    )


def judged(qrels: Qrels, wording: dict[str, str] | None = None) -> pa.Table:
    rows = [(q, d, g) for q, docs in qrels.items() for d, g in docs.items()]
    table = pa.table(
        {
            "query_id": pa.array([r[0] for r in rows], pa.string()),
            "doc_id": pa.array([r[1] for r in rows], pa.string()),
            "relevance": pa.array([r[2] for r in rows], pa.int32()),
        }
    )
    if wording is None:
        return table
    return table.append_column("query_hash", hashes([wording[r[0]] for r in rows]))


DOCS = [f"d{i}" for i in range(12)]


def world(n: int = 40, seed: int = 0) -> tuple[Rankings, Qrels]:
    """Rankings in random order of twelve documents that are all judged, three of them relevant."""
    rng = np.random.default_rng(seed)
    rankings = {f"q{i}": [str(d) for d in rng.permutation(DOCS)] for i in range(n)}
    qrels = {q: {d: int(d in ("d0", "d1", "d2")) for d in DOCS} for q in rankings}
    return rankings, qrels


def best(rankings: Rankings, qrels: Qrels) -> Rankings:
    return {q: sorted(docs, key=lambda d: -qrels[q].get(d, 0)) for q, docs in rankings.items()}
