"""A cluster that a command starts on this machine listens to nobody else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.engines import REPOSITORY, need

pytestmark = [pytest.mark.cluster]

LOCAL = """
import os, sys
from pathlib import Path
from configs.load import load_config
from reranking.workers.crew import open_crew
from tests.support.engines import listeners, until
if __name__ == "__main__":
    _, file, kind = sys.argv
    config = load_config(Path(file), [f"execution.runner={kind}", "execution.workers=1"])
    with open_crew(config) as crew:
        until(lambda: crew.present())
        for name, places in sorted(listeners([os.getpid()]).items()):
            print(name, *sorted(set(places)))
"""


@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_it_listens_on_loopback_alone(kind: str, config: Path, tmp_path: Path) -> None:
    need(kind)
    script = tmp_path / "local.py"
    script.write_text(LOCAL)
    done = subprocess.run(
        [sys.executable, str(script), str(config), kind],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {"dask": 1, "ray": 4}[kind] <= len(lines), done.stdout  # who listens is seen at all
    assert {place for _, *places in lines for place in places} <= {
        "127.0.0.1",
        "::1",
        "::ffff:127.0.0.1",
    }, done.stdout
