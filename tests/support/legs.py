"""Candidates and scores small enough to rank by hand."""

from __future__ import annotations

import pyarrow as pa

from reranking.schemas import CANDIDATES

Q = b"q" * 16


def doc(letter: str) -> bytes:
    return letter.encode() * 16


def candidates(*rows: tuple[str, int | None, int | None]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "search_id": "s",
                "chunk": 0,
                "attempt": "a",
                "query_id": "1",
                "doc_id": name,
                "query_hash": Q,
                "doc_hash": doc(name),
                "vector_rank": vector,
                "_distance": None if vector is None else vector / 10,
                "fts_rank": fts,
                "_score": None if fts is None else 9.0 - fts,
            }
            for name, vector, fts in rows
        ],
        CANDIDATES,
    )


def scores(**values: float) -> pa.Table:
    return pa.table(
        {
            "query_hash": pa.array([Q] * len(values), pa.binary(16)),
            "doc_hash": pa.array([doc(n) for n in values], pa.binary(16)),
            "score": pa.array(list(values.values()), pa.float32()),
        }
    )


THREE = candidates(("a", 1, None), ("b", 2, 2), ("c", None, 1))


TYPES = ("vector", "fts", "hybrid")
