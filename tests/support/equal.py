"""When two databases hold the same: the rule "Equality" of the architecture.

The same keys, scores within 1e-5, the same order except where scores are closer than that; times,
counts and table versions aside. Tables are read as readers read them, and must hold no key twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
from polars.testing import assert_frame_equal

from reranking.arrow import frame
from reranking.corpus.corpus import pin_managed
from reranking.runs.candidates import candidates_of, searched
from reranking.runs.listing import list_rows
from reranking.runs.pairs import PairScores
from reranking.runs.run import Run
from reranking.store import Database

CLOSE = 1e-5
_RUN = [
    "run_id",
    "search_id",
    "status",
    "epoch",
    "query_set",
    "query_types",
    "queries_content",
    "documents_content",
    "encoder",
    "reranker",
]


def assert_equal(first: str | Path, second: str | Path) -> None:
    """Assert that every table a reader sees is the same in both databases."""
    a, b = Database(str(first)), Database(str(second))
    one, other = snapshot(a), snapshot(b)
    assert one.keys() == other.keys()
    for name, rows in one.items():
        assert_same(name, rows, other[name])


def snapshot(database: Database) -> dict[str, pl.DataFrame]:
    """Each table as readers see it, sorted by its key; asserts that no key stands twice."""
    corpus = pin_managed(database, "documents")
    found = {
        "documents": _keyed(frame(database.read("documents", version=corpus.version)), "doc_id"),
        "queries": _keyed(frame(database.read("queries")), "query_set", "query_id"),
        "runs": _keyed(_runs(database), "run_id"),
    }
    _keyed(frame(database.read("searches")), "search_id", "chunk", "epoch", "attempt")
    for row in list_rows(database):
        plan = Run.of_row(database, row)
        found |= _run(database, plan, row["status"] == "done")
    metrics = frame(database.read("metrics"))
    if len(metrics.columns):
        key = ["run_id", "judgment_list", "query_type", "stage", "query_id", "measure"]
        found["metrics"] = _keyed(metrics.unique([*key, "judgments_fp"]), *key)
    return found


def pair_scores(database: Database, reranker: str, hashes: list[bytes]) -> pl.DataFrame:
    """The reranker's scores of these queries as readers see them: one row per pair."""
    known = PairScores(database, bytes.fromhex(reranker), hashes).known
    return _keyed(known, "query_hash", "doc_hash")


def _run(database: Database, plan: Any, done: bool) -> dict[str, pl.DataFrame]:
    found = {}
    assert sorted(searched(plan)) == plan.chunks or not done
    parts = [frame(candidates_of(plan, c)) for c in searched(plan)]
    candidates = pl.concat(parts).drop("attempt")
    found[f"candidates {plan.search_id}"] = _keyed(candidates, "query_id", "doc_id")
    if plan.reranker is not None:
        hashes = candidates["query_hash"].unique().to_list()
        scores = pair_scores(database, plan.reranker, hashes).drop("epoch")
        found[f"pair scores {plan.reranker}"] = scores
    if done:
        results = frame(database.need(plan.results_table).to_arrow())
        found[plan.results_table] = _keyed(results, "query_id", "query_type", "doc_id")
        _keyed(results, "query_id", "query_type", "rank")
    return found


def _runs(database: Database) -> pl.DataFrame:
    return pl.DataFrame([{k: row[k] for k in _RUN} for row in list_rows(database)])


def _keyed(rows: pl.DataFrame, *key: str) -> pl.DataFrame:
    assert not rows.select(key).is_duplicated().any(), f"a key {key} stands twice"
    return rows.sort(key)


def assert_same(name: str, a: pl.DataFrame, b: pl.DataFrame) -> None:
    """Assert that two tables, each sorted by its key, are equal."""
    ranked = "rank" in a.columns
    try:
        assert_frame_equal(
            a.drop("rank") if ranked else a,
            b.drop("rank") if ranked else b,
            check_exact=False,
            abs_tol=CLOSE,
            rel_tol=0,
            check_row_order=True,
            check_column_order=False,
        )
    except AssertionError as error:
        raise AssertionError(f"{name} differs: {error}") from error
    if ranked:
        _same_order(name, a, b)


def _same_order(name: str, a: pl.DataFrame, b: pl.DataFrame) -> None:
    """Where two documents change places, their scores must be closer than the tolerance."""
    key = ["query_id", "query_type"]
    for side, other in ((a, b), (b, a)):
        scores = other.select(*key, "doc_id", score="_relevance_score")
        ordered = side.join(scores, on=[*key, "doc_id"], how="left").sort(*key, "rank")
        rises = ordered.select((pl.col("score") - pl.col("score").shift(1).over(key)).max()).item()
        assert rises is None or rises <= CLOSE, f"{name}: another order, by {rises}"
