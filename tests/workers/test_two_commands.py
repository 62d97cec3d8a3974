"""Two commands on one run: each finds what the other has stored, and the second goes from the end.

Commands that work alone are generators: a test decides which of them does its next chunk.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.load import load_config
from reranking import chunks
from reranking.arrow import frame
from reranking.pipeline import Pipeline
from reranking.progress import unwatched
from reranking.runs import others, plan, run_scores
from reranking.runs.others import Others, order_of_chunks
from reranking.runs.run import Run
from reranking.steps import Here
from reranking.store import Database
from tests.support import tiny
from tests.support.equal import assert_equal
from tests.support.walk import walk_file

CHUNKS = 16


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> Path:
    """A folder with a config, its files, `base` (documents and queries) and the finished run."""
    folder = tmp_path_factory.mktemp("two")
    rng = np.random.default_rng(3)
    tiny.write_jsonl(folder / "documents.jsonl", tiny.documents(60))
    asked = [tiny.sentence(rng, 4, 6) for _ in range(CHUNKS)]
    tiny.write_jsonl(folder / "queries.jsonl", tiny.queries(asked))
    config = tiny.write_config(folder, cross_encoder, search__chunk_queries=1)
    first = Pipeline(load_config(config), Here(unwatched))
    first.ingest()
    first.load_queries()
    shutil.copytree(folder / "db.lancedb", folder / "base")
    walk_file(config)
    return folder


@pytest.fixture(autouse=True)
def attentive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(others, "_LOOK", 0.0)


@pytest.fixture
def config(inputs: Path, tmp_path: Path) -> Path:
    shutil.copy(inputs / "config.yaml", tmp_path)
    for name in ("documents", "queries"):
        shutil.copy(inputs / f"{name}.jsonl", tmp_path)
    shutil.copytree(inputs / "base", tmp_path / "db.lancedb")
    return tmp_path / "config.yaml"


def command(config: Path, *overrides: str) -> tuple[Pipeline, Run]:
    """A command that has planned the run."""
    pipeline = Pipeline(load_config(config, overrides), Here(unwatched))
    return pipeline, pipeline.plan()


def steps(pipeline: Pipeline, run: Run) -> Iterator[dict[str, Any]]:
    yield from chunks.work(pipeline, run)


def scored_twice(config: Path) -> int:
    """Rows of pairs that have another one."""
    stored = frame(Database(str(config.parent / "db.lancedb")).read("pair_scores"))
    return len(stored) - len(stored.unique(["query_hash", "doc_hash"]))


def test_two_that_take_turns_meet_and_do_next_to_nothing_twice(
    inputs: Path, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = steps(*command(config))
    done = [next(first) for _ in range(3)]
    with caplog.at_level(logging.INFO):
        second = steps(*command(config))
        reports = [*zip_longest(first, second)]
    most = max(report["pairs"] for report in done)
    assert len(reports) >= CHUNKS - 3 and scored_twice(config) <= 2 * most
    both = [report for pair in reports for report in pair if report] + done
    assert sum(report["scored"] for report in both) == sum(
        report["pairs"] for report in both
    ) // 2 + scored_twice(config)  # each of them has gone through all chunks
    assert "is not finished (it was last seen at work" in caplog.text
    assert "this one goes through it from the end" in caplog.text
    assert "another command scores pairs of run" in caplog.text
    walk_file(config)
    assert_equal(config.parent / "db.lancedb", inputs / "db.lancedb")


def test_workers_find_what_a_whole_other_command_did_meanwhile(
    inputs: Path, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, seen = chunks.score_chunk, list[int]()
    other: list[dict[str, Any]] = []

    def interrupted(pipeline: Pipeline, run: Run, chunk: int) -> Any:
        seen.append(chunk)
        if len(seen) == 4:
            monkeypatch.setattr(chunks, "score_chunk", work)
            other.append(walk_file(config)[1])
        return work(pipeline, run, chunk)

    monkeypatch.setattr(chunks, "score_chunk", interrupted)
    _, counts = walk_file(config, "execution.runner=threads", "execution.workers=2")
    pairs = counts["pairs"]
    assert 0 < counts["scored"] < pairs and 0 < other[0]["scored"] < pairs
    assert scored_twice(config) == counts["scored"] + other[0]["scored"] - pairs
    # At most what both have in hand is done twice: two chunks a worker, and the other's one.
    assert scored_twice(config) <= 6 * pairs / CHUNKS * 1.5
    assert_equal(config.parent / "db.lancedb", inputs / "db.lancedb")


def test_a_command_alone_on_a_run_that_was_killed_looks_up_no_more_than_before(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = steps(*command(config))
    for _ in range(5):
        next(first)
    first.close()  # as a kill does: its row says that it is running
    looked, look_up = list[int](), run_scores.stored_scores
    monkeypatch.setattr(run_scores, "stored_scores", lambda *a: looked.append(1) or look_up(*a))
    monkeypatch.setattr(run_scores, "_WINDOW", 4 * 20)  # a window is four chunks of ten by two legs
    list(steps(*command(config)))
    assert len(looked) <= 3  # at its first chunk, where it goes back, where the searched ones begin
    assert not scored_twice(config)


def test_only_a_run_that_may_be_at_work_is_gone_through_from_its_end(config: Path) -> None:
    run = command(config)[1]
    assert run.last_sign is None and order_of_chunks(run) == run.chunks  # begun by this command
    second = command(config)[1]
    assert second.last_sign is not None and order_of_chunks(second) == second.chunks[::-1]
    second.marks.update({chunk: {} for chunk in (0, 1, 5)})
    new = [chunk for chunk in second.chunks[::-1] if chunk not in (0, 1, 5)]
    assert order_of_chunks(second) == [*new, 0, 1, 5]
    second.marks.update({chunk: {} for chunk in second.chunks})
    assert order_of_chunks(second) == second.chunks[::-1]
    long_ago = replace(second, last_sign=datetime.now(UTC) - timedelta(hours=1))
    assert order_of_chunks(long_ago) == run.chunks
    plan.note_end(run, "stopped", "by Ctrl-C")
    assert command(config)[1].last_sign is None


def test_the_sooner_of_two_that_begin_at_once_is_the_first(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(load_config(config), Here(unwatched))
    written, write = list[Run](), plan.write_row

    def racing(database: Database, row: Any, *, update: bool = True) -> None:
        if not written:
            written.append(pipeline.planned(pipeline.corpus(), written_queries(pipeline)))
            written.append(command(config)[1])
        write(database, row, update=update)

    monkeypatch.setattr(plan, "write_row", racing)
    later = pipeline.plan()
    assert written[1].last_sign is None and later.last_sign == written[1].stored["started_at"]


def written_queries(pipeline: Pipeline) -> Any:
    from reranking.corpus.queries import pin_queries

    return pin_queries(pipeline.database, pipeline.config.queries.query_set)


def test_scores_of_chunks_that_were_handed_out_are_our_own(config: Path) -> None:
    pipeline, run = command(config)
    watched = Others(run)
    assert not watched.give(0) and not watched.give(1)
    other = steps(pipeline, run)
    next(other)
    assert not watched.give(2)  # chunk 0 has scores now, and was given
    for _ in range(3):
        next(other)
    assert watched.give(4) and watched.give(5)  # chunk 3 was not
