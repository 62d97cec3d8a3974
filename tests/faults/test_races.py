"""Several processes on one database: each ends well, and together they leave one truth."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from configs.load import load_config
from reranking.pipeline import Pipeline
from reranking.runs.listing import list_rows
from reranking.store import Database
from tests.support import tiny
from tests.support.equal import assert_equal, snapshot
from tests.support.slow_scorer import Job, Slow, barrier
from tests.support.walk import walk_file
from tests.support.world import make_world, undisturbed


def together(*configs: Path, slow: Slow = Slow()) -> list[Job]:  # noqa: B008 - frozen
    """Jobs that begin at the same moment."""
    start = barrier(len(configs))
    logs = [c.with_suffix(f".{i}.log") for i, c in enumerate(configs)]
    jobs = [Job(c, slow, log=log, start=start) for c, log in zip(configs, logs, strict=True)]
    for job in jobs:
        assert job.end() == 0, job.said()
    return jobs


@pytest.fixture
def world(tmp_path: Path, cross_encoder: Path) -> Path:
    """The config of a world without a database."""
    return make_world(tmp_path, cross_encoder, documents=60, queries=12)


def variant(config: Path, name: str, **changes: str | int) -> Path:
    """A copy of the config beside it with other values."""
    import yaml

    values = yaml.safe_load(config.read_text())
    for key, value in changes.items():
        section, _, inner = key.partition("__")
        values[section][inner] = value
    path = config.with_name(f"{name}.yaml")
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize(
    "slow", [Slow(), pytest.param(Slow(score=0.01, publish=0.02), marks=pytest.mark.slow)]
)
def test_two_processes_with_one_config_from_nothing(world: Path, slow: Slow) -> None:
    together(world, world, slow=slow)
    assert_equal(world.parent / "db.lancedb", undisturbed(world.parent))


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(5))
def test_four_processes_with_one_config_from_nothing(world: Path, turn: int) -> None:
    together(world, world, world, world)
    assert_equal(world.parent / "db.lancedb", undisturbed(world.parent))


@pytest.mark.slow
def test_two_runs_on_one_database(world: Path) -> None:
    other = variant(world, "other", search__limit=4, results__publish="for_the_app")
    together(world, other)
    both = world.parent / "db.lancedb"
    rows = list_rows(Database(str(both)))
    assert [row["status"] for row in rows] == ["done", "done"]
    alone = variant(other, "alone", search__limit=4)
    values = alone.read_text().replace("db.lancedb", "alone.lancedb")
    alone.write_text(values)
    plan, _ = walk_file(alone)
    found = snapshot(Database(str(both)))
    wanted = snapshot(Database(str(world.parent / "alone.lancedb")))
    assert found[plan.results_table]["doc_id"].to_list() == (
        wanted[plan.results_table]["doc_id"].to_list()
    )


@pytest.mark.slow
def test_an_ingest_during_a_run(world: Path) -> None:
    expected = undisturbed(world.parent)
    job = Job(world, Slow(score=0.05))
    assert job.reach("score"), job.said()
    changed = [{**d, "text": "thunder " + d["text"]} for d in tiny.documents(60)]
    tiny.write_jsonl(world.parent / "documents.jsonl", changed)
    Pipeline(load_config(world)).ingest()
    assert job.end() == 0, job.said()
    # The run read the version that it had pinned: its results are those of the old texts.
    database, before = Database(str(world.parent / "db.lancedb")), Database(str(expected))
    (run,) = list_rows(database)
    assert run["run_id"] == list_rows(before)[0]["run_id"] and run["status"] == "done"
    found, wanted = snapshot(database), snapshot(before)
    name = f"results_{run['run_id']}"
    assert found[name].drop("_relevance_score").equals(wanted[name].drop("_relevance_score"))
    again, counts = walk_file(world)  # and the next run is another one, on the new texts
    assert again.run_id != run["run_id"] and counts["scored"] == counts["pairs"]


def test_a_continued_run_keeps_its_pinned_version(world: Path) -> None:
    job = Job(world, Slow(score=0.05))
    assert job.reach("score", pairs=10), job.said()
    job.send(signal.SIGKILL)
    job.end()
    database = Database(str(world.parent / "db.lancedb"))
    (begun,) = list_rows(database)
    # The same content at a newer version: two edits that cancel out.
    for text in ("velvet", tiny.documents(1)[0]["text"]):
        rows = tiny.documents(60)
        rows[0]["text"] = text
        tiny.write_jsonl(world.parent / "documents.jsonl", rows)
        Pipeline(load_config(world)).ingest()
    plan, _ = walk_file(world)
    (row,) = list_rows(database)
    assert plan.run_id == begun["run_id"] == row["run_id"] and row["status"] == "done"
    assert plan.corpus.version == begun["documents_version"] == row["documents_version"]
    assert database.tagged("documents", f"run-{plan.run_id}") == plan.corpus.version
    assert database.tagged("documents", "ready") > plan.corpus.version


def test_a_half_done_ingest_is_not_seen(world: Path) -> None:
    first, _ = walk_file(world)
    changed = [{**d, "text": "thunder " + d["text"]} for d in tiny.documents(60)]
    tiny.write_jsonl(world.parent / "documents.jsonl", changed)
    database = Database(str(world.parent / "db.lancedb"))
    before = int(database.need("documents").version)
    job = Job(world, Slow(ingest=0.02))
    while job.reach("ingest") and int(database.need("documents").version) < before + 2:
        time.sleep(0.005)
    job.send(signal.SIGKILL)
    assert job.end() == -signal.SIGKILL
    assert database.need("documents").count_rows("text like 'thunder %'") > 0
    plan, _ = walk_file(world, ingest=False)
    assert plan.finished and plan.run_id == first.run_id
    second, _ = walk_file(world)  # an ingest that ends is seen, and goes on where the other stopped
    assert second.run_id != first.run_id
    assert snapshot(database)["documents"]["text"].str.starts_with("thunder").all()


@pytest.mark.slow
def test_a_killed_first_ingest_leaves_nothing_to_run_on(world: Path) -> None:
    from reranking.errors import MissingResource

    job = Job(world, Slow(ingest=0.02))
    database = Database(str(world.parent / "db.lancedb"))
    while job.reach("ingest") and database.open("documents") is None:
        time.sleep(0.005)
    job.send(signal.SIGKILL)
    job.end()
    with pytest.raises(MissingResource, match="no completed ingest"):
        walk_file(world, ingest=False)
    walk_file(world)
    assert_equal(world.parent / "db.lancedb", undisturbed(world.parent))
