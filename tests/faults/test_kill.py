"""Killed at any moment and started again, the job ends as if nothing had happened."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL
from prefect.testing.utilities import prefect_test_harness

from reranking.store import Database
from tests.support.equal import assert_equal
from tests.support.slow_scorer import Job, Slow
from tests.support.world import make_world, undisturbed

DRAGGING = Slow(ingest=0.003, search=0.05, score=0.02, publish=0.12)


def kill_chain(config: Path, stages: list[str], rng: random.Random, within: float) -> int:
    """Start the job and kill it in each of the stages, then let it end; pairs scored in all."""
    scored = 0
    for stage in stages:
        job = Job(config, DRAGGING)
        assert job.reach(stage), f"ended before {stage}: {job.said()}"
        assert job.kill_within(within, rng) == -signal.SIGKILL, job.said()
        scored += job.scored.value
    last = Job(config)
    assert last.end() == 0, last.said()
    return scored + last.scored.value


def stored_pairs(database: Path) -> int:
    """Rows of the pair-score store, duplicates included."""
    table = Database(str(database)).open("pair_scores")
    return 0 if table is None else int(table.count_rows())


def test_killed_in_scoring_and_publishing(tmp_path: Path, cross_encoder: Path) -> None:
    config = make_world(tmp_path, cross_encoder, documents=80, queries=16)
    stages = ["score", "publish"]
    scored = kill_chain(config, stages, random.Random(5), within=0.3)
    assert_equal(tmp_path / "db.lancedb", undisturbed(tmp_path))
    # A kill loses what was not committed yet: here no more than a few batches of a few pairs.
    assert scored - stored_pairs(tmp_path / "db.lancedb") < 2 * 40


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_25_times(tmp_path: Path, cross_encoder: Path, seed: int) -> None:
    config = make_world(tmp_path, cross_encoder, documents=400, queries=60)
    stages = ["ingest"] * 6 + ["search"] * 6 + ["score"] * 7 + ["publish"] * 6
    scored = kill_chain(config, stages, random.Random(seed), within=0.4)
    assert_equal(tmp_path / "db.lancedb", undisturbed(tmp_path))
    assert scored - stored_pairs(tmp_path / "db.lancedb") < 25 * 40


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with prefect_test_harness(server_startup_timeout=24 * 3600):
        yield PREFECT_API_URL.value()


def run_command(config: Path, server: str, slow: Slow, commit_seconds: float) -> Job:
    """`rescore run` in a process of its own."""
    env = {
        "PREFECT_API_URL": server,
        "PREFECT_HOME": str(config.parent / "prefect"),
        "PREFECT_LOGGING_LEVEL": "CRITICAL",
    }
    options = ["--set", f"execution.commit_seconds={commit_seconds}", "--allow-rejects"]
    return Job(config, slow, command=["run", str(config), *options], env=env)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_flow_is_stopped_killed_and_continued(
    tmp_path: Path, cross_encoder: Path, server: str
) -> None:
    config = make_world(tmp_path, cross_encoder, documents=80, queries=16)
    database = tmp_path / "db.lancedb"
    slow = Slow(score=0.05)
    stored = 0
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        job = run_command(config, server, slow, commit_seconds=1000)
        assert job.reach("score", pairs=30), job.said()
        job.send(number)
        assert job.end() == code, job.said()
        assert "start the same command again to continue" in job.said()
        # Nothing was due to be committed: what is stored was committed on the way out.
        in_hand = stored_pairs(database) - stored
        assert in_hand >= job.scored.value - 16 > 0
        stored += in_hand
    killed = run_command(config, server, slow, commit_seconds=0.05)
    assert killed.reach("score", pairs=20), killed.said()
    assert killed.kill_within(0.2, random.Random(3)) == -signal.SIGKILL
    last = run_command(config, server, Slow(), commit_seconds=30)
    assert last.end() == 0, last.said()
    assert last.scored.value <= stored_pairs(database) - stored - 20 + 16
    assert_equal(database, undisturbed(tmp_path))


@pytest.mark.slow
def test_the_installed_command_is_killed_and_continued(tmp_path: Path, cross_encoder: Path) -> None:
    """The same with the command as people start it: in its own process, without a server."""
    config = make_world(tmp_path, cross_encoder, documents=80, queries=16)
    command = [sys.executable, "-m", "flows.cli", "run", str(config), "--allow-rejects"]
    env = {"PREFECT_HOME": str(tmp_path / "prefect"), "PATH": "", "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(600):
            if (tmp_path / "db.lancedb" / "pair_scores.lance" / "_versions").is_dir():
                break
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.1)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert_equal(tmp_path / "db.lancedb", undisturbed(tmp_path))
