"""Rows for tests of mining: scores, judgments, and what the settings make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyarrow as pa

from configs.labelling import Training
from reranking.fingerprints import text_hash
from reranking.labelling.mining import Mined, Miner, MiningReport

Scored = tuple[str, str, float]


def pairs_of(rows: Sequence[Scored]) -> pa.Table:
    """Scored pairs from (query, doc, score), each document its own text."""
    return pa.table(
        {
            "query_id": [r[0] for r in rows],
            "doc_id": [r[1] for r in rows],
            "query_hash": pa.array([text_hash(r[0]) for r in rows], pa.binary(16)),
            "doc_hash": pa.array([text_hash(r[1]) for r in rows], pa.binary(16)),
            "score": pa.array([r[2] for r in rows], pa.float32()),
            "vector_rank": pa.nulls(len(rows), pa.int32()),
            "fts_rank": pa.nulls(len(rows), pa.int32()),
        }
    )


def judgments_of(positives: Iterable[tuple[Any, ...]], relevance: int = 1) -> pa.Table:
    rows = list(positives)
    return pa.table(
        {
            "query_id": [r[0] for r in rows],
            "doc_id": [r[1] for r in rows],
            "relevance": pa.array([r[2] if len(r) > 2 else relevance for r in rows], pa.int32()),
            "source": ["ann"] * len(rows),
        }
    )


# --- beyond the oracle


def mined(
    rows: Sequence[Scored],
    positives: Iterable[tuple[Any, ...]],
    labels: pa.Table | None = None,
    texts: Callable[[Sequence[str]], dict[str, str]] | None = None,
    probability: Sequence[float] | None = None,
    **parameters: Any,
) -> tuple[Mined, MiningReport]:
    miner = Miner(Training(**parameters), judgments_of(positives), texts=texts)
    pairs = pairs_of(rows)
    if probability:
        pairs = pairs.append_column("probability", pa.array(probability, pa.float64()))
    found = miner.mine(pairs, labels)
    return found, miner.report()
