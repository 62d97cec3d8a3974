"""Two drivers on one run: the second goes from the end, and they meet; the tables are right."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from reranking.store import Database
from tests.support.driver import Driver
from tests.support.engines import Engine, until
from tests.support.equal import assert_equal
from tests.support.gate import Gate
from tests.support.walk import walk_file

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_two_drivers_of_one_run(engine: Engine, config: Path, inputs: Path, tmp_path: Path) -> None:
    own = ["execution.gpus_per_worker=0", "execution.workers=1", "search.chunk_queries=1"]
    options = engine.settings(*own)
    gates = [Gate(str(tmp_path / name), slow=0.2) for name in ("first", "second")]
    first = Driver(config, gates[0], options)
    until(lambda: gates[0].events("commit") or first.ended())
    second = Driver(config, gates[1], options)
    until(lambda: first.ended() and second.ended())
    assert first.process.returncode == 0, first.said()
    assert second.process.returncode == 0, second.said()
    table = Database(str(tmp_path / "db.lancedb")).read("pair_scores")
    keys = zip(*(table[name].to_pylist() for name in ("query_hash", "doc_hash")), strict=True)
    pairs = len(set(keys))
    # Both have at most two chunks in hand where they meet, of 32.
    assert pairs <= table.num_rows <= 1.5 * pairs, (pairs, table.num_rows)
    shutil.copytree(inputs / "base", tmp_path / "alone.lancedb")
    walk_file(config, "search.chunk_queries=1", "database=alone.lancedb")
    assert_equal(tmp_path / "db.lancedb", tmp_path / "alone.lancedb")
