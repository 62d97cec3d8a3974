"""The object store is away for a while under a running job: it is waited for, and nothing lost."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.driver import Driver
from tests.support.engines import Engine, until
from tests.support.equal import assert_equal
from tests.support.gate import Gate
from tests.support.object_store import BUCKET, emulator

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

AWAY = 20.0  # seconds


def test_the_store_is_away_and_comes_back(
    engine: Engine,
    config: Path,
    inputs: Path,
    tmp_path: Path,
    store_port: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config.write_text(config.read_text().replace("db.lancedb", f"s3://{BUCKET}/db"))
    gate = Gate(str(tmp_path / "gate"), slow=0.2)
    with emulator(store_port) as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        options = engine.settings("execution.gpus_per_worker=0", "execution.commit_seconds=0.001")
        driver = Driver(config, gate, options)
        try:
            until(lambda: len(gate.events("commit")) >= 3 or driver.ended())
            assert not driver.ended(), driver.said()
            store.leave()
            commits = len(gate.events("commit"))
            time.sleep(AWAY)
            assert len(gate.events("commit")) <= commits + 2 and not driver.ended(), driver.said()
            store.come_back()
            until(driver.ended)
        finally:
            driver.kill()
        assert driver.process.returncode == 0, driver.said()
        assert_equal(f"s3://{BUCKET}/db", inputs / "alone")
