"""Two drivers on one run: the work is done twice at worst, and the tables are right."""

from __future__ import annotations

from pathlib import Path

import pytest

from reranking.store import Database
from tests.support.driver import Driver
from tests.support.engines import Engine, until
from tests.support.equal import assert_equal
from tests.support.gate import Gate

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_two_drivers_of_one_run(engine: Engine, config: Path, inputs: Path, tmp_path: Path) -> None:
    options = engine.settings("execution.gpus_per_worker=0", "execution.workers=1")
    gates = [Gate(str(tmp_path / name), slow=0.2) for name in ("first", "second")]
    first, second = (Driver(config, gate, options) for gate in gates)
    until(lambda: first.ended() and second.ended())
    assert first.process.returncode == 0, first.said()
    assert second.process.returncode == 0, second.said()
    assert_equal(tmp_path / "db.lancedb", inputs / "alone")
    table = Database(str(tmp_path / "db.lancedb")).read("pair_scores")
    keys = zip(*(table[name].to_pylist() for name in ("query_hash", "doc_hash")), strict=True)
    pairs = len(set(keys))
    assert pairs <= table.num_rows <= 2 * pairs, (pairs, table.num_rows)
