"""The job on an object store: an S3 emulator on loopback that only the environment names."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from reranking.errors import MissingResource
from reranking.runs.run import list_rows
from reranking.store import Database
from reranking.upkeep.maintain import maintain
from reranking.upkeep.orphans import half_created, stale_files
from tests.support.equal import assert_equal
from tests.support.object_store import BUCKET, Store, emulator
from tests.support.slow_scorer import Job, Slow, barrier
from tests.support.walk import walk_file
from tests.support.world import make_world, undisturbed


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An empty bucket that this process and its children find in their environment."""
    with emulator() as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made


def world(folder: Path, model: Path, name: str, documents: int, queries: int) -> tuple[Path, Path]:
    """A config whose database is in the bucket, and the local one of an undisturbed job."""
    config = make_world(folder, model, documents, queries)
    local = undisturbed(folder)
    config.write_text(config.read_text().replace("db.lancedb", f"s3://{BUCKET}/{name}"))
    return config, local


def uri(name: str) -> str:
    return f"s3://{BUCKET}/{name}"


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_job_leaves_there_what_it_leaves_in_a_folder(
    tmp_path: Path, cross_encoder: Path, store: Store
) -> None:
    config, local = world(tmp_path, cross_encoder, "db", documents=30, queries=6)
    run, counts = walk_file(config)
    assert counts["scored"] == counts["pairs"] > 0
    assert walk_file(config, ingest=False)[0].finished
    assert_equal(uri("db"), local)
    database = Database(uri("db"), must_exist=True)
    assert database.names() == Database(str(local)).names()
    assert database.tagged("documents", f"run-{run.run_id}") == run.corpus.version
    maintain(database)
    assert_equal(uri("db"), local)
    objects = store.objects("db/")
    assert 20 < len(objects) < 1000
    for key, content in objects.items():
        assert b"planted" not in content, f"{key} holds a credential"


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_is_not_there_is_said(store: Store) -> None:
    with pytest.raises(MissingResource, match="no database at s3://shelf/nowhere"):
        Database(uri("nowhere"), must_exist=True)
    empty = Database(uri("nowhere"))
    assert empty.names() == [] and empty.open("runs") is None


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_table_that_is_being_created_there_is_left_alone(store: Store) -> None:
    """Its first data file is there, its first commit is not: it has no age that could be seen."""
    store.put("db/runs.lance/data/a.lance", b"x")
    database = Database(uri("db"))
    assert "runs" in database.names() and database.open("runs") is None
    assert half_created(database, timedelta(0)) == []
    assert stale_files(database, database.names(), timedelta(0)) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("stage", ["ingest", "search", "score", "publish"])
def test_two_writers_of_which_one_is_killed(
    tmp_path: Path, cross_encoder: Path, store: Store, stage: str
) -> None:
    config, local = world(tmp_path, cross_encoder, stage, documents=40, queries=12)
    slow, start = Slow(ingest=0.02, search=0.1, score=0.1, publish=0.3), barrier(2)
    doomed, other = (
        Job(config, slow, env=store.environment, log=tmp_path / f"{i}.log", start=start)
        for i in range(2)
    )
    assert doomed.reach(stage), doomed.said()
    time.sleep(0.1)
    assert doomed.kill_within(0.2, random.Random(4)) == -signal.SIGKILL
    assert other.end() == 0, other.said()
    assert_equal(uri(stage), local)
    again, _ = walk_file(config)
    (row,) = list_rows(Database(uri(stage)))
    assert again.finished and row["status"] == "done"
