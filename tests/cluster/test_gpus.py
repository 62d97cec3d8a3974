"""Workers that believe to have GPUs, under a driver that has none: each uses one of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reranking.runs.listing import list_rows
from reranking.store import Database
from tests.support.engines import Dask, Engine, Ray, cluster, need
from tests.support.gate import Gate
from tests.support.walk import walk_file

pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore")]


def use(engine: Engine, patch: pytest.MonkeyPatch) -> None:
    for name, value in getattr(engine, "client", {}).items():
        patch.setenv(name, value)


def test_dask_workers_of_one_machine_use_a_gpu_each(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("dask")
    gate = Gate(str(tmp_path / "gate"), gpus=2, together=2).install(monkeypatch)
    folder = tmp_path / "dask"
    with cluster("dask", folder) as engine:
        walk_file(config, *engine.settings("rerank.precision=float32"))
        assert sorted(line["device"] for line in gate.events("load")) == ["cuda:0", "cuda:1"]

        # `cuda` says what the driver lacks and the workers have; it names none of the GPUs.
        again = Gate(str(tmp_path / "again"), gpus=2, together=2).install(monkeypatch)
        _, counts = walk_file(config, *engine.settings("rerank.device=cuda"))
        assert sorted(line["device"] for line in again.events("load")) == ["cuda:0", "cuda:1"]
    assert counts["scored"] == counts["pairs"] > 0
    newest = max(list_rows(Database(str(tmp_path / "db.lancedb"))), key=lambda r: r["started_at"])
    assert json.loads(newest["config_json"])["rerank"]["precision"] == "auto"


@pytest.mark.slow
def test_dask_reserves_gpus_where_workers_offer_them(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("dask")
    gate = Gate(str(tmp_path / "gate"), gpus=2).install(monkeypatch)
    folder = tmp_path / "dask"
    folder.mkdir()
    engine = Dask(folder, 1, "--nthreads", "1", "--resources", "GPU=1")
    try:
        walk_file(config, *engine.settings("rerank.device=cuda"))
    finally:
        engine.stop()
    assert [line["device"] for line in gate.events("load")] == ["cuda:0"]


def test_ray_gives_each_actor_a_gpu_and_it_keeps_its_model(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("ray")
    gate = Gate(str(tmp_path / "gate"), gpus=2, together=2).install(monkeypatch)
    folder = tmp_path / "ray"
    folder.mkdir()
    engine = Ray(folder, cpus=2, gpus=2)
    try:
        use(engine, monkeypatch)
        walk_file(config, *engine.settings("rerank.device=cuda"))
    finally:
        engine.stop()
    loads = gate.events("load")
    assert sorted(line["visible"] for line in loads) == ["0", "1"]
    assert {line["device"] for line in loads} == {"cuda"}
    assert (
        len(loads) == len(gate.pids()) == 2 < len({line["chunk"] for line in gate.events("batch")})
    )
