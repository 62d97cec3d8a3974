"""A model that only the driver has reaches the workers of a cluster, once a machine."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest

from configs.load import load_config
from reranking.scoring.crossencoder import find_cross_encoder
from reranking.workers.parcels import parcels_of
from tests.support.engines import Engine
from tests.support.equal import assert_equal
from tests.support.gate import Gate
from tests.support.hidden import Hidden
from tests.support.walk import walk_file

pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore")]


def test_a_folder_that_workers_do_not_see_is_sent(
    engine: Engine,
    config: Path,
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = Gate(str(tmp_path / "gate"), together=2).install(monkeypatch)
    given = load_config(config)
    assert given.rerank is not None
    [parcel] = parcels_of([find_cross_encoder(given.rerank).folder]).values()
    place = parcel.place
    shutil.rmtree(place, ignore_errors=True)  # the other engine's workers were here, too
    hidden = Hidden(tmp_path, given, monkeypatch)
    own = engine.settings("execution.gpus_per_worker=0", *hidden.overrides)
    with caplog.at_level(logging.INFO):
        run, counts = walk_file(config, *own)
    assert hidden.are_gone and counts["scored"] == counts["pairs"] > 0
    assert len(gate.pids("load")) == 2 and os.getpid() not in gate.pids("load")
    told = [line for line in caplog.messages if line.startswith("sending model")]
    assert len(told) == 1 and place.is_dir()
    assert_equal(tmp_path / "db.lancedb", inputs / "alone")
    assert run.run_id == walk_file(config)[0].run_id  # wherever the folder is
