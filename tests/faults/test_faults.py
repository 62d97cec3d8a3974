"""The disk is full, a table is gone or somebody else's: said clearly, and mended by a restart."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import pytest

from reranking import retry
from reranking.arrow import frame
from reranking.errors import MissingResource, RescoreError, RuntimeFailure
from reranking.runs.listing import list_rows
from reranking.scoring.crossencoder import CrossEncoderModel
from reranking.store import Database
from tests.support.equal import assert_equal, assert_same
from tests.support.faulty import World, fill, remount


@pytest.fixture
def world(tmp_path: Path, cross_encoder: Path) -> World:
    return World(tmp_path, cross_encoder)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> Path:
    """The database of a job without faults."""
    folder = tmp_path_factory.mktemp("undisturbed")
    World(folder, cross_encoder).run()
    return folder / "db.lancedb"


def nothing_is_published(database: Database) -> bool:
    """Whether no results table can be opened and no run counts as done."""
    tables = [n for n in database.names() if n.startswith("results_")]
    done = [row for row in list_rows(database) if row["status"] == "done"]
    return not done and all(database.open(n) is None for n in tables)


def after(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, then: Callable[[], object]
) -> None:
    """Have `then` happen once, after the first call of the owner's method."""
    original = getattr(owner, name)

    def wrapped(*args: Any, **options: Any) -> Any:
        result = original(*args, **options)
        monkeypatch.setattr(owner, name, original)
        then()
        return result

    monkeypatch.setattr(owner, name, wrapped)


# A disk of its own


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("nothing", marks=pytest.mark.slow),
        "ingest",
        pytest.param("load_queries", marks=pytest.mark.slow),
        pytest.param("search", marks=pytest.mark.slow),
        pytest.param("score", marks=pytest.mark.slow),
        pytest.param("publish", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk(
    world: World, disk: Path, undisturbed: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reranking import chunks
    from reranking.corpus import ingest
    from reranking.pipeline import Pipeline
    from reranking.runs import publish, rerank

    owner, name = {
        "nothing": (None, ""),
        "ingest": (ingest._Ingest, "window"),
        "load_queries": (Pipeline, "load_queries"),
        "search": (chunks, "search_chunk"),
        "score": (rerank.Rescorer, "score_chunk"),
        "publish": (publish, "rank_results"),
    }[moment]
    if owner is None:
        fill(disk, leave=4096)
    else:
        after(monkeypatch, owner, name, lambda: fill(disk, leave=4096))
    with pytest.raises(RescoreError, match="disk is full: free some space") as error:
        world.run(disk / "db.lancedb")
    assert error.value.exit_code == 6
    (disk / "filler").unlink()
    assert nothing_is_published(Database(str(disk / "db.lancedb")))
    world.run(disk / "db.lancedb")
    assert_equal(disk / "db.lancedb", undisturbed)


def test_a_read_only_database(world: World, disk: Path) -> None:
    database = disk / "db.lancedb"
    first = world.run(database)
    remount(disk, "ro")
    assert world.run(database).finished  # nothing to write: a finished run is found
    with pytest.raises(RuntimeFailure, match="cannot be written: check its permissions"):
        world.run(database, search__limit=5)
    assert [r["run_id"] for r in list_rows(Database(str(database)))] == [first.run_id]
    remount(disk, "rw")
    assert not world.run(database, search__limit=5).finished


# Tables that are gone, half there, or somebody else's


slow = pytest.mark.slow
dropped = pytest.mark.parametrize(
    "table",
    [
        "pair_scores",
        "candidates",
        *(pytest.param(table, marks=slow) for table in ("searches", "queries")),
        pytest.param("documents", marks=slow),
        pytest.param("runs", marks=slow),
    ],
)


@dropped
def test_a_table_dropped_while_the_run_is_at_work(
    world: World, undisturbed: Path, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reranking.runs.rerank import Rescorer

    after(monkeypatch, Rescorer, "score_chunk", lambda: world.database.drop(table))
    try:
        world.run()
    except RescoreError as error:
        assert error.exit_code in (4, 6) and str(error)
        assert nothing_is_published(world.database)
    plan = world.run()
    if table == "pair_scores":  # what was in it is lost, but no result is
        key = ["query_id", "query_type", "doc_id"]
        found, wanted = (
            frame(d.read(plan.results_table)).sort(key)
            for d in (world.database, Database(str(undisturbed)))
        )
        assert_same("results", found, wanted)
    else:
        assert_equal(world.folder / "db.lancedb", undisturbed)


@dropped
def test_a_table_dropped_between_two_runs(world: World, table: str) -> None:
    first = world.run()
    before = world.database.need(first.results_table).count_rows()
    world.database.drop(table)
    second = world.run(rerank__top_k=3)  # the same candidates, other results
    third = world.run()
    assert third.run_id == first.run_id != second.run_id
    assert world.database.need(first.results_table).count_rows() == before
    assert {r["status"] for r in list_rows(world.database)} == {"done"}
    assert len(list_rows(world.database)) == 2


def somebody_elses(world: World, name: str) -> None:
    folder = world.folder / "db.lancedb"
    lancedb.connect(folder).create_table(name, pa.table({"precious": [1, 2, 3]}))


def test_a_results_table_of_somebody_else(world: World, undisturbed: Path) -> None:
    plan = world.run()
    world.database.drop(plan.results_table)
    somebody_elses(world, plan.results_table)
    with pytest.raises(MissingResource, match="made by somebody else") as error:
        world.run()
    assert error.value.exit_code == 4
    assert world.database.need(plan.results_table).count_rows() == 3
    world.database.drop(plan.results_table)
    world.run()
    assert_equal(world.folder / "db.lancedb", undisturbed)


def test_a_consumers_table_of_somebody_else_is_seen_before_the_work(world: World) -> None:
    somebody_elses(world, "for_the_shop")
    with pytest.raises(MissingResource, match="made by somebody else and is left as it is"):
        world.run(results__publish="for_the_shop")
    assert world.database.need("for_the_shop").count_rows() == 3
    assert world.database.open("pair_scores") is None
    plan = world.run(results__publish="for_the_app")
    rows = world.database.need("for_the_app").count_rows()
    assert rows == world.database.need(plan.results_table).count_rows()


@pytest.mark.parametrize(
    "table", ["pair_scores", *(pytest.param(t, marks=slow) for t in ("runs", "queries"))]
)
def test_a_table_of_ours_that_is_not_ours(world: World, undisturbed: Path, table: str) -> None:
    somebody_elses(world, table)
    with pytest.raises(MissingResource, match=f"table '{table}' is not rescore's") as error:
        world.run()
    assert error.value.exit_code == 4
    connection = lancedb.connect(world.folder / "db.lancedb")
    assert connection.open_table(table).count_rows() == 3
    connection.drop_table(table)
    world.run()
    assert_equal(world.folder / "db.lancedb", undisturbed)


def test_half_created_table_folders(world: World, undisturbed: Path) -> None:
    (row,) = list_rows(Database(str(undisturbed)))
    results = f"results_{row['run_id']}"
    for name in ("documents", "queries", "pair_scores", "runs", results, "for_the_shop"):
        folder = world.folder / "db.lancedb" / f"{name}.lance" / "data"
        folder.mkdir(parents=True)
        (folder / "abc.lance").write_bytes(b"left by a killed writer")
    assert list_rows(world.database) == []
    world.run(results__publish="for_the_shop")
    assert [row["status"] for row in list_rows(world.database)] == ["done"]
    assert_equal(world.folder / "db.lancedb", undisturbed)


def test_a_run_whose_publisher_was_killed_is_published(world: World, undisturbed: Path) -> None:
    plan = world.run()
    world.database.drop(plan.results_table)
    (world.folder / "db.lancedb" / f"{plan.results_table}.lance" / "data").mkdir(parents=True)
    (row,) = list_rows(world.database)
    assert row["run_id"] == plan.run_id
    world.run()
    assert_equal(world.folder / "db.lancedb", undisturbed)


# Hiccups


def test_hiccups_of_the_store_are_tried_again(
    world: World, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fifth call into the lowest level fails as an object store does at times."""
    calls = {"all": 0, "failed": 0}
    pauses: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", pauses.append)

    def flaky(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def wrapped(*args: Any, **options: Any) -> Any:
            calls["all"] += 1
            if calls["all"] % 5 == 0:
                calls["failed"] += 1
                raise RuntimeError(SLOW_DOWN)
            return original(*args, **options)

        monkeypatch.setattr(owner, name, wrapped)

    flaky(lancedb.db.LanceDBConnection, "open_table")
    flaky(lancedb.db.LanceDBConnection, "create_table")
    flaky(lancedb.table.LanceTable, "add")
    flaky(lancedb.table.LanceTable, "optimize")
    flaky(lancedb.table.LanceTable, "delete")
    flaky(lancedb.merge.LanceMergeInsertBuilder, "execute")
    world.run()
    assert calls["failed"] > 20 and len(pauses) >= calls["failed"]
    monkeypatch.undo()
    assert_equal(world.folder / "db.lancedb", undisturbed)


# As LanceDB says it of a store that is asked too much (object_store's words).
SLOW_DOWN = (
    "lance error: LanceError(IO): Generic S3 error: Error performing PUT https://bucket.example/x "
    "in 12ms - Server returned non-2xx status code: 503 Service Unavailable: SlowDown"
)


def test_pauses_grow_and_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", pauses.append)

    def down(*_: Any) -> None:
        raise RuntimeError(SLOW_DOWN)

    monkeypatch.setattr(lancedb.db.LanceDBConnection, "open_table", down)
    with pytest.raises(RescoreError, match="503 Service Unavailable"):
        Database(str(tmp_path)).need("documents")
    assert len(pauses) == 5 and pauses == sorted(pauses) and sum(pauses) > 3


# Broken models


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.filterwarnings("ignore:invalid value encountered")
def test_a_broken_models_number_is_never_stored(
    world: World, cross_encoder: Path, tmp_path: Path, value: float
) -> None:
    from safetensors.torch import load_file, save_file

    world.model = Path(shutil.copytree(cross_encoder, tmp_path / "broken"))
    weights = load_file(world.model / "model.safetensors")
    weights["classifier.bias"].fill_(value)
    save_file(weights, world.model / "model.safetensors", {"format": "pt"})
    with pytest.raises(RuntimeFailure, match=r"for query '.+' and document '.+'") as error:
        world.run()
    assert error.value.exit_code == 6
    assert world.database.open("pair_scores") is None and nothing_is_published(world.database)


def test_numbers_that_a_library_changed_stop_the_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run()
    load = CrossEncoderModel.load

    def drifted(model: CrossEncoderModel) -> Any:
        scorer = load(model)
        batches = scorer.batches

        def shifted(*args: Any) -> Iterator[Any]:
            for batch in batches(*args):
                yield batch._replace(logits=batch.logits + np.float32(1e-3))

        scorer.batches = shifted
        return scorer

    monkeypatch.setattr(CrossEncoderModel, "load", drifted)
    rows = world.database.need("pair_scores").count_rows()
    with pytest.raises(RuntimeFailure, match="scored again differ by up to") as error:
        world.run(search__limit=12)
    assert "--force" in str(error.value) and error.value.exit_code == 6
    assert world.database.need("pair_scores").count_rows() == rows
    monkeypatch.undo()
    world.run(search__limit=12)


# Damaged files


@pytest.mark.parametrize(
    "table",
    ["pair_scores", *(pytest.param(t, marks=slow) for t in ("runs", "candidates", "queries"))],
)
def test_a_table_without_its_versions_is_never_a_new_one(world: World, table: str) -> None:
    world.run()
    folder = world.folder / "db.lancedb" / f"{table}.lance"
    shutil.rmtree(folder / "_versions")
    before = sorted(p.name for p in (folder / "data").iterdir())
    for _ in range(2):
        with pytest.raises(MissingResource, match=f"'{table}' .* versions is gone.* back-up"):
            world.run(rerank__top_k=2)
    assert sorted(p.name for p in (folder / "data").iterdir()) == before


def test_a_cut_off_file_is_named_with_its_table(world: World) -> None:
    world.run()
    folder = world.folder / "db.lancedb" / "pair_scores.lance" / "data"
    file = max(folder.iterdir(), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(MissingResource, match="'pair_scores' .* is damaged") as error:
        world.run(rerank__top_k=2)
    assert f"data/{file.name}" in str(error.value) and "computed again" in str(error.value)


def test_a_finished_run_whose_results_are_gone_is_published_again(world: World) -> None:
    """From its candidates and scores: nothing is lost, so this is no error."""
    first = world.run()
    before = frame(world.database.need(first.results_table).to_arrow())
    shutil.rmtree(world.folder / "db.lancedb" / f"{first.results_table}.lance")
    assert world.run().run_id == first.run_id
    assert frame(world.database.need(first.results_table).to_arrow()).equals(before)
