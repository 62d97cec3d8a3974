"""What a cluster lacks is said before anything is submitted, and who cannot work is named."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from reranking.errors import MissingPrerequisite
from tests.support.driver import Driver
from tests.support.engines import Dask, Engine, Ray, broken, end, need, until
from tests.support.gate import Gate
from tests.support.walk import walk_file

pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore")]


def test_gpus_that_no_node_has(engine: Engine, config: Path) -> None:
    asked = {
        "ray": [],  # one GPU a worker is what a config asks for by default
        "dask": ["execution.resources={GPU: 1}"],
    }[engine.name]
    said = {
        "ray": r"no room for 1 worker\(s\) of 1 CPU, 1 GPU each: it has 2 CPU, 0 GPU",
        "dask": r"no Dask worker offers execution.resources GPU=1: the 2 that are there offer \{\}",
    }[engine.name]
    with pytest.raises(MissingPrerequisite, match=said):
        walk_file(config, *engine.settings(*asked))


def test_more_workers_than_there_is_room_for(
    engine: Engine, config: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = engine.settings("execution.gpus_per_worker=0")
    said = {"ray": "no room for 5 worker", "dask": "execution.workers.min is 5 .* has 2 worker"}
    with pytest.raises(MissingPrerequisite, match=said[engine.name]):
        walk_file(config, *own, "execution.workers={min: 5, max: 6}")
    with caplog.at_level(logging.WARNING):
        _, counts = walk_file(config, *own, "execution.workers=6")
    assert counts["scored"] == counts["pairs"] > 0
    assert "6 workers are wanted, the" in caplog.text


def test_workers_of_another_version_are_named_before_they_get_a_chunk(
    engine: Engine, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Gate(str(tmp_path / "gate"), version="9.9").install(monkeypatch)
    with pytest.raises(MissingPrerequisite, match="no worker can do this job.*has rescore 9.9"):
        walk_file(config, *engine.settings("execution.gpus_per_worker=0"))


def test_a_dask_worker_without_our_modules_is_refused_and_the_others_go_on(
    config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("dask")
    gate = Gate(str(tmp_path / "gate")).install(monkeypatch)
    folder = tmp_path / "dask"
    folder.mkdir()
    engine = Dask(folder, 0)
    try:
        old = engine.add("--nthreads", "1", PYTHONPATH=broken(folder))
        engine.until_there(1)
        with pytest.raises(MissingPrerequisite, match="has another version of rescore"):
            walk_file(config, *engine.settings())
        engine.add("--nthreads", "1")
        engine.until_there(2)
        _, counts = walk_file(config, *engine.settings())
    finally:
        end(old.pid)
        engine.stop()
    assert counts["scored"] == counts["pairs"] > 0
    assert len(gate.pids()) == 1 and "is not used: it has another version" in caplog.text


@pytest.mark.slow
def test_ray_nodes_without_our_modules_are_said_to_be_of_no_use(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("ray")
    folder = tmp_path / "ray"
    folder.mkdir()
    engine = Ray(folder, cpus=1, PYTHONPATH=broken(folder))
    try:
        for name, value in engine.client.items():
            monkeypatch.setenv(name, value)
        options = engine.settings("execution.gpus_per_worker=0")
        driver = Driver(config, Gate(str(tmp_path / "gate")), options)
        until(driver.ended)
        assert "MissingPrerequisite: no worker can do this job" in driver.said()
        assert "it has another version of rescore" in driver.said()
        monkeypatch.delenv("RAY_AUTH_MODE")
        driver = Driver(config, Gate(str(tmp_path / "gate")), options)
        until(driver.ended)
        assert "asks for a token: set RAY_AUTH_MODE=token" in driver.said()
    finally:
        engine.stop()
