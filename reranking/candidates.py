"""Candidates as they are stored: which chunks are searched, and what was found.

A chunk's candidates are appended under an attempt's name; then one row of `searches` marks the
chunk as searched and names the attempt that counts. Two processes may search the same chunk: the
first mark wins and the other's rows are never read (`maintain` removes them).
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reranking.queries import read_queries
from reranking.runs import Plan
from reranking.schemas import CANDIDATES, SEARCHES
from reranking.search import QueryEncoder, check_vectors, query_vectors, search_chunk
from reranking.store import Database, equals


def chunk_of_queries(database: Database, plan: Plan, chunk: int) -> pa.Table:
    """The queries of one chunk, by id."""
    rows = read_queries(database, plan.queries)
    return rows.slice(chunk * plan.chunk_queries, plan.chunk_queries)


def searched(database: Database, plan: Plan) -> dict[int, dict[str, int | str]]:
    """The `searches` row of each chunk that is done."""
    where = equals("search_id", plan.search_id)
    rows = database.read("searches", where).to_pylist()
    done = [r for r in rows if r["epoch"] >= plan.least_epoch]
    return {r["chunk"]: r for r in sorted(done, key=lambda r: int(r["epoch"]))}


def search_and_store(
    database: Database, plan: Plan, chunk: int, encoder: QueryEncoder | None
) -> bool:
    """Search one chunk unless that is done; whether there was something to do."""
    if chunk in searched(database, plan):
        return False
    queries = chunk_of_queries(database, plan, chunk)
    vectors: NDArray[np.float32] | None = None
    if "vector" in plan.search.legs:
        vectors = query_vectors(queries, encoder, check_vectors(database, plan.corpus))
    found = search_chunk(database, plan.corpus, queries, vectors, plan.search)
    attempt = uuid.uuid4().hex
    marked = _with_constants(found, search_id=plan.search_id, chunk=chunk, attempt=attempt)
    database.append("candidates", marked)
    database.merge("searches", _mark(plan, chunk, attempt, queries, found), SEARCHES, update=False)
    return True


def candidates_of(database: Database, plan: Plan, chunk: int) -> pa.Table:
    """The stored candidates of one chunk: the schema CANDIDATES."""
    mark = searched(database, plan).get(chunk)
    if mark is None:
        raise LookupError(f"chunk {chunk} of search {plan.search_id} was not searched yet")
    where = (
        equals("search_id", plan.search_id)
        & equals("chunk", chunk)
        & equals("attempt", mark["attempt"])
    )
    rows = database.read("candidates", where)
    return rows if rows.num_columns else CANDIDATES.empty_table()


def _mark(plan: Plan, chunk: int, attempt: str, queries: pa.Table, found: pa.Table) -> pa.Table:
    with_hits = pc.count_distinct(found.column("query_id")).as_py()
    row = {
        "search_id": plan.search_id,
        "chunk": chunk,
        "epoch": plan.epoch,
        "attempt": attempt,
        "queries": queries.num_rows,
        "hits_vector": found.num_rows - found.column("vector_rank").null_count,
        "hits_fts": found.num_rows - found.column("fts_rank").null_count,
        "no_hits": queries.num_rows - with_hits,
        "documents_version": plan.corpus.version,
        "searched_at": datetime.now(UTC),
    }
    return pa.Table.from_pylist([row], SEARCHES)


def _with_constants(table: pa.Table, **constants: str | int) -> pa.Table:
    for name, value in constants.items():
        kind = CANDIDATES.field(name).type
        table = table.append_column(name, pa.array([value] * table.num_rows, kind))
    return table
