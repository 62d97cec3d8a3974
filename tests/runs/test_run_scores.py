"""The scores of a run's chunks, whatever is stored, in whatever order chunks are worked on."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reranking.runs import run_scores
from reranking.runs.pairs import KEY, PairScores
from reranking.runs.rerank import Rescorer
from reranking.runs.run_scores import RunScores
from reranking.store import Database

RERANKER = b"r" * 16
CHUNK = 2  # queries

numbers = st.integers(0, 5)
stored = st.lists(st.tuples(numbers, numbers, st.integers(0, 2)), max_size=30)


def run_of(database: Database, queries: list[int]) -> Any:
    """What RunScores reads of a run: its queries' texts, by number, and the size of its chunks."""
    hashes = pa.array([bytes([q]) * 16 for q in queries], pa.binary(16))
    search = SimpleNamespace(chunk_queries=CHUNK, limit=5, legs=("vector",))
    rows = pa.table({"text_hash": hashes})
    return SimpleNamespace(database=database, least_epoch=0, search=search, query_rows=rows)


def pairs(*keys: tuple[int, int], score: float = 1.0) -> pl.DataFrame:
    """Pairs of a query's and a document's number, each with the score."""
    hashes = [[bytes([n]) * 16 for n in column] for column in zip(*keys, strict=True)]
    columns = dict(zip(KEY, hashes, strict=True))
    return pl.DataFrame(columns).with_columns(score=pl.lit(score, pl.Float32))


@settings(max_examples=25)
@given(
    queries=st.lists(numbers, min_size=1, max_size=12),
    before=stored,
    asked=st.lists(st.tuples(st.integers(0, 5), stored), min_size=1, max_size=8),
    window=st.sampled_from([1, 20, 40, 1000]),
    kept=st.sampled_from([0, 3, 1000]),
)
def test_a_chunks_scores_are_those_of_a_look_up_of_its_own(
    queries: list[int],
    before: list[tuple[int, int, int]],
    asked: list[tuple[int, list[tuple[int, int, int]]]],
    window: int,
    kept: int,
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_scores, "_WINDOW", window)
        patch.setattr(run_scores, "_KEPT", kept)
        patch.setattr(run_scores, "_JOINED", 4)
        database = Database(folder)
        for at, (query, document, epoch) in enumerate(before):
            PairScores(database, RERANKER, ()).add(pairs((query, document), score=at), epoch)
        store = RunScores(run_of(database, queries), RERANKER)
        for chunk, found in asked:
            chunk %= -(-len(queries) // CHUNK)
            texts = queries[chunk * CHUNK : (chunk + 1) * CHUNK]
            store.cover(chunk)
            compare(store, database, texts)
            new = {(q, d): epoch for q, d, epoch in found if q in texts}
            for (query, document), epoch in new.items():
                if len(store.missing(pairs((query, document)))):
                    store.add(pairs((query, document), score=100 + chunk), epoch)
            compare(store, database, texts)


def compare(store: RunScores, database: Database, texts: list[int]) -> None:
    """Hold what is known of the chunk to a look-up of its texts alone."""
    plain = PairScores(database, RERANKER, [bytes([q]) * 16 for q in texts])
    known, expected = (rows.select(*KEY, "score").sort(KEY) for rows in (store.known, plain.known))
    assert known.equals(expected)


def test_another_process_is_seen_once_its_scores_are_asked_for_again(tmp_path: Path) -> None:
    database = Database(str(tmp_path))
    PairScores(database, RERANKER, ()).add(pairs((0, 0)), 0)
    store = RunScores(run_of(database, [0, 0, 1]), RERANKER)
    store.cover(0)
    assert len(store.known) == 1
    PairScores(Database(str(tmp_path)), RERANKER, ()).add(pairs((0, 1), score=2.0), 0)
    store.cover(0)
    assert len(store.known) == 1  # not asked for again
    store.forget_window()
    store.cover(0)
    assert sorted(store.known["score"]) == [1.0, 2.0]
    store.cover(1)
    assert store.known.is_empty()


def test_a_chunk_that_comes_back_to_who_had_it_last_is_looked_up_again(tmp_path: Path) -> None:
    run = run_of(Database(str(tmp_path)), [0, 1])
    worker = Rescorer(run, lambda: None, reranker=RERANKER.hex())  # type: ignore[arg-type,return-value]
    worker._ready = lambda *given: None  # type: ignore[assignment,method-assign,return-value]
    worker._score = lambda *given: None  # type: ignore[assignment,method-assign,return-value]
    both = pairs((0, 0), (1, 0)).drop("score")
    assert worker.score_pairs(0, both) == 2  # in vain: nothing was stored
    PairScores(Database(str(tmp_path)), RERANKER, ()).add(pairs((0, 0)), 0)  # another's, who died
    assert worker.score_pairs(0, both) == 2
    worker.doubtful = True
    assert worker.score_pairs(0, both) == 1


def test_a_long_run_passes_over_the_store_a_few_times_and_not_once_a_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_scores, "_WINDOW", 10)
    monkeypatch.setattr(run_scores, "_KEPT", 10)
    database, chunks = Database(str(tmp_path)), 40
    store = RunScores(run_of(database, list(range(CHUNK * chunks))), RERANKER)
    read: list[int] = []

    def counted(*given: Any) -> Any:
        read.append(0)
        for rows in stored(*given):
            read[-1] += len(rows)
            yield rows

    stored = run_scores.stored_scores
    monkeypatch.setattr(run_scores, "stored_scores", counted)
    keys = [(query, document) for query in range(CHUNK) for document in range(5)]
    for chunk in range(chunks):
        store.cover(chunk)
        own = [(chunk * CHUNK + query, document) for query, document in keys]
        assert len(store.missing(pairs(*own))) == len(own)
        store.add(pairs(*own), 0)
    rows = chunks * len(keys)
    assert sum(read) <= 2 * rows, "one pass a window reads 20 times all rows"
    for order, passes in ((range(chunks), 1), (reversed(range(chunks - 1)), 1)):
        before = len(read)
        for chunk in order:
            store.cover(chunk)
            assert len(store.known) == len(keys)
        assert len(read) == before + passes and read[-1] == rows
