"""LanceDB's own search and reranker on the table of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lancedb
import numpy as np
import polars as pl
import pyarrow as pa
from lancedb.query import MatchQuery
from lancedb.rerankers import CrossEncoderReranker

from reranking.arrow import frame
from reranking.runs.run import Run


class Oracle:
    """LanceDB's answers on the table of a run."""

    def __init__(self, run: Run, model: str, vectors: dict[str, Any]) -> None:
        self.run, self.vectors = run, vectors
        self.table = lancedb.connect(run.database.uri).open_table(run.corpus.table)
        self.table.checkout(run.corpus.version)
        self.rerankers = {
            s: _memoised(CrossEncoderReranker(model, return_score=s, trust_remote_code=False))
            for s in ("relevance", "all")
        }

    def answer(self, query_id: str, text: Any, query_type: str, return_score: str) -> pl.DataFrame:
        reranker = self.rerankers[return_score]
        vector, limit = self.vectors[query_id], self.run.search.limit
        if query_type == "vector":
            query = self.table.search(vector, vector_column_name="vector")
            query = query.distance_type("cosine").limit(limit).rerank(reranker, query_string=text)
        elif query_type == "fts":
            query = self.table.search(text, query_type="fts").limit(limit).rerank(reranker)
        else:
            query = self.table.search(query_type="hybrid").vector(vector).text(text)
            query = query.distance_type("cosine").limit(limit).rerank(reranker)
        return frame(castable(query.to_arrow()))

    def loose(self, query_id: str, text: str) -> dict[str, set[str]]:
        """The documents whose place in a leg LanceDB chooses freely: those that tie at its end."""
        limit = self.run.search.limit
        vector = self.table.search(self.vectors[query_id], vector_column_name="vector")
        found = vector.distance_type("cosine").limit(limit + 200).to_arrow()
        fts = self.table.search(MatchQuery(text, "text"), query_type="fts").limit(limit + 200)
        return {
            "vector": _tied(found, "_distance", limit),
            "fts": _tied(fts.to_arrow(), "_score", limit),
        }


def _memoised(reranker: CrossEncoderReranker) -> CrossEncoderReranker:
    """The reranker with its predictions remembered, since the cells ask for the same pairs."""
    model = reranker.model
    predict = model.predict
    known: dict[tuple[str, str], float] = {}

    def remembered(pairs: Sequence[list[str]], **options: Any) -> np.ndarray:
        new = [p for p in pairs if (p[0], p[1]) not in known]
        if new:
            known.update(
                zip(((p[0], p[1]) for p in new), predict(new, **options).tolist(), strict=True)
            )
        return np.array([known[p[0], p[1]] for p in pairs], np.float32)

    model.predict = remembered
    return reranker


def castable(table: pa.Table) -> pa.Table:
    keep = [n for n in table.column_names if n == "doc_id" or n.startswith("_")]
    return table.select([n for n in keep if n != "_rowid"])


def _tied(found: pa.Table, value: str, limit: int) -> set[str]:
    if found.num_rows <= limit:
        return set()
    values = found[value].to_pylist()
    if values[limit] != values[limit - 1]:
        return set()
    ids = found["doc_id"].to_pylist()
    return {i for i, v in zip(ids, values, strict=True) if v == values[limit - 1]}
