"""A run that goes on reads its candidates once, in order; many small commits stay few files."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from reranking import compaction, store
from reranking.runs import candidates
from reranking.runs.candidates import StoredCandidates, each_chunk, search_and_store
from reranking.runs.run import Run
from reranking.schemas import CANDIDATES, PAIR_SCORES
from reranking.store import Database
from tests.support import tiny
from tests.support.walk import walk_file


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A finished run of six chunks, as another process sees it that goes on with it."""
    rng = np.random.default_rng(5)
    tiny.write_jsonl(tmp_path / "documents.jsonl", tiny.documents(40))
    texts = [tiny.sentence(rng, 2, 5) for _ in range(12)]
    tiny.write_jsonl(tmp_path / "queries.jsonl", tiny.queries(texts))
    done, _ = walk_file(tiny.write_config(tmp_path, tmp_path, rerank=None, search__chunk_queries=2))
    return again(done)


def again(run: Run) -> Run:
    """The run without what a process has read of it."""
    return Run(**run.__getstate__())


def test_searched_chunks_are_read_in_one_pass(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = dict(each_chunk(run))
    passes: list[str] = []
    stream = Database.stream

    def watched(self: Database, name: str, *given: Any, **named: Any) -> Any:
        passes.append(name)
        return stream(self, name, *given, **named)

    def refuse(*_: object) -> None:
        raise AssertionError("one chunk was read by itself")

    monkeypatch.setattr(Database, "stream", watched)
    monkeypatch.setattr(candidates, "_stored", refuse)
    for chunk in run.chunks:
        assert search_and_store(run, chunk, None) is False
        assert run.at_hand.pop(chunk).equals(wanted[chunk])
    assert passes == ["candidates"]
    passes.clear()
    other = again(run)  # a worker that is given some of the chunks
    for chunk in (1, 4, 5):
        assert search_and_store(other, chunk, None) is False
        assert other.at_hand[chunk].equals(wanted[chunk])
    assert passes == ["candidates"]


def test_threads_share_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one asks while the first is in the middle of the pass."""
    inside, both = threading.Event(), threading.Event()
    empty = CANDIDATES.empty_table()

    def passing(run: Any, marks: dict[int, Any]) -> Iterator[tuple[int, pa.Table]]:
        for chunk in marks:
            inside.set()
            both.wait(0.2)
            yield chunk, empty

    def second() -> pa.Table | None:
        inside.wait()
        return stored.of(1)

    monkeypatch.setattr(candidates, "_in_order", passing)
    stored = StoredCandidates(cast("Run", SimpleNamespace(marks={1: {}, 0: {}, 2: {}})))
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(stored.of, 0), pool.submit(second)]
        assert [a.result() is empty for a in answers] == [True, True]
    assert stored.of(0) is None  # the pass is beyond it
    assert stored.of(2) is empty


def test_a_chunk_that_the_pass_is_beyond_is_read_by_itself(run: Run) -> None:
    wanted = dict(each_chunk(run))
    for chunk in (3, 1, 3, 5):
        assert search_and_store(run, chunk, None) is False
        assert run.at_hand[chunk].equals(wanted[chunk])


def test_a_chunk_whose_candidates_are_gone_is_searched_again(run: Run) -> None:
    run.database.drop("candidates")
    assert [search_and_store(run, chunk, None) for chunk in run.chunks] == [True] * 6
    assert sum(rows.num_rows for _, rows in each_chunk(again(run))) > 0


def test_many_appends_leave_few_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "SMALL_FILES", 10)
    monkeypatch.setattr(store, "SMALL_FILES", 10)
    database, other = Database(str(tmp_path)), Database(str(tmp_path))
    row = {"query_hash": b"q" * 16, "doc_hash": b"d" * 16, "reranker": b"r" * 16}
    for number in range(40):
        rows = pa.Table.from_pylist([row | {"score": number, "epoch": 0}], PAIR_SCORES)
        (database, other)[number % 2].append("pair_scores", rows)
    table = database.need("pair_scores")
    assert table.stats()["fragment_stats"]["num_fragments"] < 15
    assert table.to_arrow()["score"].to_pylist() == [float(n) for n in range(40)]
