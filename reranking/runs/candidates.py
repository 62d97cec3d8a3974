"""Candidates as they are stored: which chunks are searched, and what was found.

A chunk's candidates are appended under an attempt's name; then one row of `searches` marks the
chunk as searched and names the attempt that counts. Two processes may search the same chunk: the
first mark counts, and the other's rows, which are the same, are not read.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reranking.errors import RuntimeFailure
from reranking.runs.run import Run
from reranking.runs.search import QueryEncoder, check_vectors, query_vectors, search_chunk
from reranking.schemas import CANDIDATES, SEARCHES, conform
from reranking.store import equals

log = logging.getLogger(__name__)

_LEGS = ("vector", "fts")


Mark = dict[str, Any]
"""A row of `searches`."""


def searched(run: Run) -> dict[int, Mark]:
    """The `searches` row of each chunk that is done, as the table says it now."""
    rows = run.database.read("searches", equals("search_id", run.search_id)).to_pylist()
    done = [r for r in rows if r["epoch"] >= run.least_epoch]
    # Of the newest epoch the first: what it names is whole, and so is what a racing mark names.
    first = sorted(done, key=lambda r: (-r["epoch"], r["searched_at"], r["attempt"]), reverse=True)
    return {r["chunk"]: r for r in first}


def search_and_store(
    run: Run, chunk: int, encoder: QueryEncoder | None, device: str = "cpu"
) -> bool:
    """Search one chunk unless that is done; whether there was something to do.

    A chunk whose candidates are gone, although it is marked as searched, is searched again. What
    other processes search meanwhile is not seen: looking would cost more with every chunk.
    """
    mark = run.marks.get(chunk)
    if mark is not None:
        rows = run.stored_candidates.of(chunk)
        if rows is None:
            rows = _stored(run, mark)
        if _are_whole(mark, rows):
            run.at_hand[chunk] = rows
            return False
        log.warning("chunk %d of search %s: candidates are gone", chunk, run.search_id)
        of_chunk = equals("search_id", run.search_id) & equals("chunk", chunk)
        run.database.delete("searches", of_chunk & equals("attempt", mark["attempt"]))
    queries = run.chunk_of_queries(chunk)
    vectors: NDArray[np.float32] | None = None
    if "vector" in run.search.legs:
        vectors = query_vectors(queries, encoder, check_vectors(run.database, run.corpus))
    hits = search_chunk(run.database, run.corpus, queries, vectors, run.search, device)
    run.at_hand[chunk] = store_chunk(run, chunk, queries, hits)
    return True


def store_chunk(run: Run, chunk: int, queries: pa.Table, hits: pa.Table) -> pa.Table:
    """Store what was found for the chunk's queries, then mark the chunk; what is stored.

    `hits` has the columns of CANDIDATES without search_id, chunk and attempt. Both are appended:
    a merge by key would read all marks for each.
    """
    attempt = uuid.uuid4().hex
    rows = conform(
        _with_constants(hits, search_id=run.search_id, chunk=chunk, attempt=attempt), CANDIDATES
    )
    mark = _mark(run, chunk, attempt, queries, hits)
    run.database.append("candidates", rows)
    run.database.append("searches", mark)
    [run.marks[chunk]] = mark.to_pylist()
    return rows


def candidates_of(run: Run, chunk: int) -> pa.Table:
    """The stored candidates of one chunk: the schema CANDIDATES.

    Raises RuntimeFailure where rows are missing: results must never lack candidates silently.
    """
    if chunk in run.at_hand:
        return run.at_hand[chunk]
    mark = _marked(run, chunk, searched(run))
    return _need_whole(run, mark, _stored(run, mark))


def each_chunk(run: Run) -> Iterator[tuple[int, pa.Table]]:
    """The number and the stored candidates of each chunk, in order, in one pass over the table.

    Chunks that were stored in another order wait for their turn. Raises as `candidates_of` does.
    """
    marks = searched(run)
    for chunk, rows in _in_order(run, {chunk: _marked(run, chunk, marks) for chunk in run.chunks}):
        yield chunk, _need_whole(run, marks[chunk], rows)


def _in_order(run: Run, marks: Mapping[int, Mark]) -> Iterator[tuple[int, pa.Table]]:
    """What is stored of these chunks, whole or not, in the order of `marks`."""
    chunk_of = {mark["attempt"]: chunk for chunk, mark in marks.items()}
    waiting: dict[int, list[pa.Table]] = {chunk: [CANDIDATES.empty_table()] for chunk in marks}
    left = {chunk: Counter(_counted(mark)) for chunk, mark in marks.items()}
    ready = iter(marks)
    turn = next(ready, None)
    for batch in run.database.stream("candidates", equals("search_id", run.search_id)):
        for attempt in pc.unique(batch.column("attempt")).to_pylist():
            chunk = chunk_of.get(attempt)
            if chunk is not None:
                rows = batch.filter(pc.equal(batch.column("attempt"), attempt))
                waiting[chunk].append(conform(pa.Table.from_batches([rows]), CANDIDATES))
                left[chunk].subtract(_hits_of(rows))
        while turn is not None and not any(left[turn].values()):
            yield turn, pa.concat_tables(waiting.pop(turn))
            turn = next(ready, None)
    for chunk in [] if turn is None else [turn, *ready]:
        yield chunk, pa.concat_tables(waiting.pop(chunk))


class StoredCandidates:
    """The candidates of chunks that were searched before, in one pass for a run that goes on.

    Chunks are asked for in order; those that are left out, which are other workers', are let go of.
    Threads of one process may ask at the same time.
    """

    def __init__(self, run: Run) -> None:
        self._marks = dict(sorted(run.marks.items()))
        self._left = set(self._marks)
        self._passing = _in_order(run, self._marks)
        self._asking = threading.Lock()

    def of(self, chunk: int) -> pa.Table | None:
        """What is stored of the chunk, whole or not; None if the pass is beyond it."""
        with self._asking:
            if chunk not in self._left:
                return None
            for number, rows in self._passing:
                self._left.discard(number)
                if number == chunk:
                    return rows
            return None


def _marked(run: Run, chunk: int, marks: Mapping[int, Mark]) -> Mark:
    if chunk not in marks:
        raise LookupError(f"chunk {chunk} of search {run.search_id} was not searched yet")
    return marks[chunk]


def _need_whole(run: Run, mark: Mark, rows: pa.Table) -> pa.Table:
    if not _are_whole(mark, rows):
        raise RuntimeFailure(
            f"candidates of chunk {mark['chunk']} are gone from table 'candidates' of "
            f"{run.database.uri}: was it dropped or cut? Start the command again; the chunk is "
            "then searched again"
        )
    return rows


def _stored(run: Run, mark: Mark) -> pa.Table:
    where = (
        equals("search_id", run.search_id)
        & equals("chunk", mark["chunk"])
        & equals("attempt", mark["attempt"])
    )
    rows = run.database.read("candidates", where)
    return rows if rows.num_columns else CANDIDATES.empty_table()


def _are_whole(mark: Mark, rows: pa.Table) -> bool:
    """Whether the rows are as many as the chunk's mark counted."""
    return _hits_of(rows) == _counted(mark)


def _counted(mark: Mark) -> dict[str, int]:
    return {leg: mark[f"hits_{leg}"] for leg in _LEGS}


def _hits_of(rows: pa.Table | pa.RecordBatch) -> dict[str, int]:
    return {leg: rows.num_rows - rows.column(f"{leg}_rank").null_count for leg in _LEGS}


def _mark(run: Run, chunk: int, attempt: str, queries: pa.Table, hits: pa.Table) -> pa.Table:
    with_hits = pc.count_distinct(hits.column("query_id")).as_py()
    row = {
        "search_id": run.search_id,
        "chunk": chunk,
        "epoch": run.epoch,
        "attempt": attempt,
        "queries": queries.num_rows,
        **{f"hits_{leg}": count for leg, count in _hits_of(hits).items()},
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
