"""LanceDB's own search and reranker on the table of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lancedb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from lancedb.query import MatchQuery
from lancedb.rerankers import CrossEncoderReranker, Reranker

from reranking.arrow import frame
from reranking.runs.run import Run

CELLS = [(t, s) for s in ("relevance", "all") for t in ("vector", "fts", "hybrid")]
COLUMNS = {"vector": ["_distance"], "fts": ["_score"], "hybrid": ["_distance", "_score"]}


class Oracle:
    """LanceDB's answers on the table of a run."""

    def __init__(self, run: Run, model: str, vectors: dict[str, Any], **arguments: Any) -> None:
        """`arguments` are LanceDB's class's own, which hands them on to CrossEncoder."""
        self.run, self.vectors = run, vectors
        self.table = lancedb.connect(run.database.uri).open_table(run.corpus.table)
        self.table.checkout(run.corpus.version)
        self.rerankers = {
            s: CrossEncoderReranker(model, return_score=s, trust_remote_code=False, **arguments)
            for s in ("relevance", "all")
        }
        self.model = self.rerankers["all"].model
        self.rerankers["relevance"].model = self.model
        self.column: int | None = None  # which of the model's columns counts, if it has several
        self._remember_predictions()

    def _remember_predictions(self) -> None:
        """The cells ask for the same pairs: each is predicted once."""
        predict = self.model.predict
        known: dict[tuple[str, str], float] = {}

        def remembered(pairs: Sequence[list[str]], **options: Any) -> np.ndarray:
            new = [p for p in pairs if (p[0], p[1]) not in known]
            if new:
                scores = predict(new, **options)
                scores = scores if self.column is None else scores[:, self.column]
                known.update(zip(((p[0], p[1]) for p in new), scores.tolist(), strict=True))
            return np.array([known[p[0], p[1]] for p in pairs], np.float32)

        self.model.predict = remembered

    def answer(
        self,
        query_id: str,
        text: Any,
        query_type: str,
        return_score: str,
        reranker: Reranker | None = None,
    ) -> pl.DataFrame:
        """The reranked rows of one search; `reranker` instead of LanceDB's class if it is given."""
        reranker = reranker or self.rerankers[return_score]
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


def compare(
    ours: pl.DataFrame, theirs: pl.DataFrame, query_type: str, loose: set[str], limit: int
) -> float:
    """Assert that two rankings of one query agree, ties aside; the largest gap of their scores."""
    a = dict(zip(ours["doc_id"], ours["_relevance_score"], strict=True))
    b = dict(zip(theirs["doc_id"], theirs["_relevance_score"], strict=True))
    if not loose:
        # At the cut of a hybrid ranking two equal scores may also change places.
        last = min(b.values(), default=0.0)
        assert {d for d in a if a[d] > last + 1e-4} == {d for d in b if b[d] > last + 1e-4}
        assert len(a) == len(b)
    else:
        # Which of the tied documents a leg brings is LanceDB's choice. In a hybrid ranking, cut at
        # the limit, each of them may push out a document of the lowest scores.
        cut = max(min(m.values(), default=0.0) for m in (a, b)) if query_type == "hybrid" else None
        free = {d for m in (a, b) for d, s in m.items() if cut is not None and s <= cut + 1e-4}
        assert (set(a) ^ set(b)) - loose - free == set()
    gap = max((abs(a[doc_id] - b[doc_id]) for doc_id in a.keys() & b.keys()), default=0.0)
    assert gap <= 1e-4
    order = [d for d in ours["doc_id"] if d in b]
    for first, second in zip(order, order[1:], strict=False):
        assert b[first] >= b[second] - 2e-4, (first, second)
    for column in COLUMNS[query_type]:
        if column in ours.columns:
            _same_column(ours, theirs, column, a.keys() & b.keys())
    return gap


def _same_column(ours: pl.DataFrame, theirs: pl.DataFrame, column: str, ids: Any) -> None:
    given = dict(zip(ours["doc_id"], ours[column], strict=True))
    expected = dict(zip(theirs["doc_id"], theirs[column], strict=True))
    for doc_id in ids:
        if expected[doc_id] is None:
            assert given[doc_id] is None, (column, doc_id)
        else:
            assert given[doc_id] == pytest.approx(expected[doc_id], abs=1e-6, rel=1e-6)
