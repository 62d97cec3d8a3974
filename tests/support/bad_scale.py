"""Cases of docs/bad-input.md: too much of it, and tables that others work on meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lancedb
import polars as pl
import pyarrow as pa
import pytest
from lancedb.index import FTS, IvfFlat

from reranking import memory
from reranking.corpus import queries
from reranking.runs import candidates
from reranking.store import Database
from tests.support import tiny
from tests.support.bad_bench import Bench, Outcome, case
from tests.support.bad_tables import products


@case("a limit above 10,000")
def _(bench: Bench) -> Outcome:
    return bench.run(search__limit=10_001)


@case("a limit beyond what LanceDB returns")
def _(bench: Bench) -> Outcome:
    outcome = bench.run(search__limit=10_000)
    results = found(outcome)
    assert set(results.filter(query_type="vector").group_by("query_id").len()["len"]) == {8}
    having = {r["doc_id"] for r in tiny.documents(8) if "lamp" in r["text"]}
    assert set(results.filter(query_type="fts", query_id="q001")["doc_id"]) == having
    return outcome


@case("a query set larger than memory")
def _(bench: Bench) -> Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "available", lambda: 100)
        patch.setattr(queries, "_AT_ONCE", 1)
        outcome = bench.run()
    database = Database(str(bench.folder / "db.lancedb"))
    assert "queries" not in database.names()
    return outcome


@contextmanager
def before_the_second_chunk(change: Callable[[], Any]) -> Iterator[None]:
    """Let somebody else change a table while a run is at work on it."""
    search, calls = candidates.search_chunk, []

    def changed(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            change()
        return search(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "search_chunk", changed)
        yield
    assert len(calls) == 2


def found(outcome: Outcome) -> pl.DataFrame:
    """The results of the outcome's run."""
    assert outcome.run is not None, outcome.text
    return outcome.table(outcome.run.results_table)


def changed_meanwhile(bench: Bench, change: Callable[[Any], Any]) -> Outcome:
    """A run on a table that its owner changes meanwhile; it finds what it would have found."""
    bench.table("products", products(), "body")
    owned = lancedb.connect(bench.folder / "db.lancedb").open_table("products")
    documents = {"table": "products", "managed": False, "id": "sku", "text": "body"}

    def run(limit: int) -> Outcome:
        search = {"limit": limit, "chunk_queries": 1, "query_types": ["vector", "fts"]}
        return bench.run(documents=documents, search=search)

    before = run(10)
    with before_the_second_chunk(lambda: change(owned)):
        outcome = run(20)  # of 8 documents: another search with the same hits
    keys = ["query_id", "query_type", "rank", "doc_id"]
    assert found(outcome).select(keys).equals(found(before).select(keys))
    after = run(20)
    assert after.run is not None and outcome.run is not None
    assert after.run.run_id != outcome.run.run_id
    return outcome


@case("an index that somebody else is building")
def _(bench: Bench) -> Outcome:
    def build(owned: Any) -> None:
        owned.create_index("vector", config=IvfFlat(distance_type="l2", num_partitions=1))
        owned.create_index("body", config=FTS(stem=False), replace=True)

    return changed_meanwhile(bench, build)


@case("a table that grows during a run")
def _(bench: Bench) -> Outcome:
    more = products(sku=pa.array([f"e{i}" for i in range(8)]))
    return changed_meanwhile(bench, lambda owned: owned.add(more))
