"""Candidates as they are stored: which chunks are searched, and what was found.

A chunk's candidates are appended under an attempt's name; then one row of `searches` marks the
chunk as searched and names the attempt that counts. Two processes may search the same chunk: the
first mark wins and the other's rows are never read (`maintain` removes them).
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reranking.errors import RuntimeFailure
from reranking.runs.run import Run
from reranking.runs.search import QueryEncoder, check_vectors, query_vectors, search_chunk
from reranking.schemas import CANDIDATES, SEARCHES
from reranking.store import equals

log = logging.getLogger(__name__)


def searched(run: Run) -> dict[int, dict[str, int | str]]:
    """The `searches` row of each chunk that is done."""
    where = equals("search_id", run.search_id)
    rows = run.database.read("searches", where).to_pylist()
    done = [r for r in rows if r["epoch"] >= run.least_epoch]
    return {r["chunk"]: r for r in sorted(done, key=lambda r: int(r["epoch"]))}


def search_and_store(
    run: Run, chunk: int, encoder: QueryEncoder | None, device: str = "cpu"
) -> bool:
    """Search one chunk unless that is done; whether there was something to do.

    A chunk whose candidates are gone, although it is marked as searched, is searched again.
    """
    mark = searched(run).get(chunk)
    if mark is not None:
        if _are_whole(mark, _stored(run, mark, ["vector_rank", "fts_rank"])):
            return False
        log.warning("chunk %d of search %s: candidates are gone", chunk, run.search_id)
        of_chunk = equals("search_id", run.search_id) & equals("chunk", chunk)
        run.database.delete("searches", of_chunk & equals("attempt", mark["attempt"]))
    queries = run.chunk_of_queries(chunk)
    vectors: NDArray[np.float32] | None = None
    if "vector" in run.search.legs:
        vectors = query_vectors(queries, encoder, check_vectors(run.database, run.corpus))
    hits = search_chunk(run.database, run.corpus, queries, vectors, run.search, device)
    store_chunk(run, chunk, queries, hits)
    return True


def store_chunk(run: Run, chunk: int, queries: pa.Table, found: pa.Table) -> None:
    """Store what was found for the chunk's queries, then mark the chunk as searched.

    `found` has the columns of CANDIDATES without search_id, chunk and attempt.
    """
    attempt = uuid.uuid4().hex
    marked = _with_constants(found, search_id=run.search_id, chunk=chunk, attempt=attempt)
    run.database.append("candidates", marked)
    run.database.merge(
        "searches", _mark(run, chunk, attempt, queries, found), SEARCHES, update=False
    )


def candidates_of(run: Run, chunk: int) -> pa.Table:
    """The stored candidates of one chunk: the schema CANDIDATES.

    Raises RuntimeFailure where rows are missing: results must never lack candidates silently.
    """
    mark = searched(run).get(chunk)
    if mark is None:
        raise LookupError(f"chunk {chunk} of search {run.search_id} was not searched yet")
    rows = _stored(run, mark)
    if not _are_whole(mark, rows):
        raise RuntimeFailure(
            f"candidates of chunk {chunk} are gone from table 'candidates' of {run.database.uri}: "
            "was it dropped or cut? Start the command again; the chunk is then searched again"
        )
    return rows


def _stored(
    run: Run,
    mark: Mapping[str, int | str],
    columns: list[str] | None = None,
) -> pa.Table:
    where = (
        equals("search_id", run.search_id)
        & equals("chunk", mark["chunk"])
        & equals("attempt", mark["attempt"])
    )
    rows = run.database.read("candidates", where, columns)
    return rows if rows.num_columns else CANDIDATES.empty_table()


def _are_whole(mark: Mapping[str, int | str], rows: pa.Table) -> bool:
    """Whether the rows are as many as the chunk's mark counted."""
    return all(_hits(rows, leg) == mark[f"hits_{leg}"] for leg in ("vector", "fts"))


def _hits(rows: pa.Table, leg: str) -> int:
    return int(rows.num_rows - rows.column(f"{leg}_rank").null_count)


def _mark(run: Run, chunk: int, attempt: str, queries: pa.Table, found: pa.Table) -> pa.Table:
    with_hits = pc.count_distinct(found.column("query_id")).as_py()
    row = {
        "search_id": run.search_id,
        "chunk": chunk,
        "epoch": run.epoch,
        "attempt": attempt,
        "queries": queries.num_rows,
        "hits_vector": _hits(found, "vector"),
        "hits_fts": _hits(found, "fts"),
        "no_hits": queries.num_rows - with_hits,
        "documents_version": run.corpus.version,
        "searched_at": datetime.now(UTC),
    }
    return pa.Table.from_pylist([row], SEARCHES)


def _with_constants(table: pa.Table, **constants: str | int) -> pa.Table:
    for name, value in constants.items():
        kind = CANDIDATES.field(name).type
        table = table.append_column(name, pa.array([value] * table.num_rows, kind))
    return table
