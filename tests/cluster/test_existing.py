"""An existing cluster scores a job: every worker loads once, and nothing is done twice."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from reranking.store import Database
from tests.support.engines import Engine
from tests.support.equal import assert_equal
from tests.support.gate import Gate
from tests.support.walk import walk_file

pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore")]


def settings(engine: Engine, *more: str) -> list[str]:
    """What a user sets: the address, and for Ray that its nodes have no GPU."""
    return engine.settings("execution.gpus_per_worker=0", *more)


def rows(config: Path) -> int:
    """Rows of the pair-score store, those that stand twice included."""
    return int(Database(str(config.parent / "db.lancedb")).need("pair_scores").count_rows())


def test_its_workers_score_load_once_and_start_no_server(
    engine: Engine, config: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(str(tmp_path / "gate"), together=2).install(monkeypatch)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    default = engine.settings() if engine.name == "dask" else settings(engine)
    _, counts = walk_file(config, *default)
    assert_equal(tmp_path / "db.lancedb", inputs / "alone")
    assert counts["scored"] == counts["pairs"] == rows(config) == gate.scored() > 0
    events = gate.events("load", "batch", "commit")
    assert {line["cluster"] for line in events} == {engine.name}
    assert not any(line["prefect"] for line in events)
    assert len(gate.pids()) == 2 and os.getpid() not in gate.pids()
    assert len(gate.events("load")) == 2 and gate.pids("load") == gate.pids()


def test_workers_that_stay_read_the_database_as_it_is_now(
    engine: Engine, config: Path, inputs: Path, tmp_path: Path
) -> None:
    database = tmp_path / "db.lancedb"
    _, first = walk_file(config, *settings(engine))
    shutil.copytree(database, tmp_path / "copy")
    shutil.rmtree(database)
    _, second = walk_file(config, *settings(engine))  # with the documents' ingest
    assert second["scored"] == first["scored"] == rows(config)
    shutil.rmtree(database)
    shutil.copytree(inputs / "base", database)
    _, third = walk_file(config, *settings(engine))
    assert third["scored"] == third["pairs"] == rows(config)
    shutil.rmtree(database)
    shutil.copytree(tmp_path / "copy", database)
    assert walk_file(config, *settings(engine))[0].finished
    assert_equal(database, inputs / "alone")


def test_a_number_of_workers_is_the_most_that_are_used(
    engine: Engine, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(str(tmp_path / "gate")).install(monkeypatch)
    walk_file(config, *settings(engine, "execution.workers=1"))
    assert len(gate.pids()) == 1 == len(gate.events("load"))
    assert {line["cluster"] for line in gate.events("batch")} == {engine.name}
