"""A worker that is killed costs what it had not committed, on either engine, at any moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from reranking.errors import RuntimeFailure
from reranking.store import Database
from tests.support.driver import Driver
from tests.support.engines import Engine, until
from tests.support.equal import assert_equal
from tests.support.gate import Gate
from tests.support.walk import walk_file

pytestmark = [pytest.mark.cluster, pytest.mark.filterwarnings("ignore")]


def settings(engine: Engine, *more: str) -> list[str]:
    return engine.settings("execution.gpus_per_worker=0", *more)


def rows(config: Path) -> int:
    """Rows of the pair-score store, those that stand twice included."""
    return int(Database(str(config.parent / "db.lancedb")).need("pair_scores").count_rows())


def lost(gate: Gate) -> int:
    """Pairs that those who died had scored and not committed."""
    dead = {line["pid"] for line in gate.events("death")}
    scored = sum(line["pairs"] for line in gate.events("batch") if line["pid"] in dead)
    return scored - sum(line["pairs"] for line in gate.events("commit") if line["pid"] in dead)


@pytest.mark.parametrize(
    "moment",
    [
        "first",
        pytest.param("middle", marks=pytest.mark.slow),
        pytest.param("last", marks=pytest.mark.slow),
    ],
)
def test_a_worker_is_killed(
    engine: Engine,
    config: Path,
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    gate = Gate(str(tmp_path / "gate"), dies=moment, together=2).install(monkeypatch)
    _, counts = walk_file(config, *settings(engine, "execution.commit_seconds=0.001"))
    assert len(gate.events("death")) == 1
    assert_equal(tmp_path / "db.lancedb", inputs / "alone")
    assert counts["scored"] == counts["pairs"] and counts["reused"] == 0
    assert rows(config) == counts["pairs"]  # what was committed was not scored again
    # Every batch is committed at once here: what is scored twice is the batch at hand, and no more.
    batches = [line["pairs"] for line in gate.events("batch")]
    assert gate.scored() - counts["pairs"] == lost(gate) <= 2 * max(batches)


@pytest.mark.slow
def test_a_chunk_that_kills_three_workers_is_named_and_the_next_start_goes_on(
    engine: Engine, config: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(str(tmp_path / "gate"), deadly=3)
    with monkeypatch.context() as patch:
        gate.install(patch)
        with pytest.raises(RuntimeFailure, match=r"1 of 8 chunks could not be done \(chunk 3"):
            walk_file(config, *settings(engine))
    assert [line["chunk"] for line in gate.events("death")] == [3, 3, 3]
    before = rows(config)
    _, counts = walk_file(config, *settings(engine))
    assert counts["scored"] + before == counts["pairs"] == rows(config)
    assert_equal(tmp_path / "db.lancedb", inputs / "alone")


@pytest.mark.slow
def test_the_driver_is_killed_and_started_again(
    engine: Engine, config: Path, inputs: Path, tmp_path: Path
) -> None:
    gate = Gate(str(tmp_path / "gate"), slow=0.2)
    options = settings(engine, "execution.commit_seconds=0.001")
    driver = Driver(config, gate, options)
    until(lambda: len(gate.events("commit")) >= 4 or driver.ended())
    assert not driver.ended(), driver.said()
    driver.kill()
    _, counts = walk_file(config, *options)
    assert 0 < counts["scored"] < counts["pairs"]
    assert_equal(tmp_path / "db.lancedb", inputs / "alone")
    # A worker that is still at the first driver's chunk may score its pairs beside the second's.
    chunk = counts["pairs"] / 8
    assert rows(config) - counts["pairs"] <= 2 * 2 * chunk
