"""Ctrl-C in a real terminal, and SIGTERM to the whole group, as systemd and `timeout` send it."""

from __future__ import annotations

import os
import pty
import signal
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.support.equal import assert_equal
from tests.support.world import make_world, undisturbed

pytestmark = pytest.mark.slow

# The installed command, whose scorer takes its time so that the signal meets it at work.
SLOWED = """
import multiprocessing, sys
from flows.cli import app
from tests.support.slow_scorer import Slow, _slow_down
counters = [multiprocessing.Value("i", 0) for _ in range(2)]
_slow_down(Slow(score=0.05), *counters)
sys.argv = ["rescore", *sys.argv[1:]]
app()
"""


def in_terminal(folder: Path, *arguments: str, by: str | None = None) -> tuple[int, str]:
    """Run the command in a terminal of its own, perhaps stop it as it scores; exit code, output."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    env |= {"PREFECT_HOME": str(folder / "prefect"), "PYTHONPATH": str(REPOSITORY)}
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execve(sys.executable, [sys.executable, "-c", SLOWED, *arguments], env)
    output, waiting = b"", by is not None
    while True:
        try:
            output += (part := os.read(terminal, 65536))
        except OSError:  # the other end is closed
            break
        if not part:
            break
        if waiting and b"score" in output:
            waiting = False
            if by == "Ctrl-C":
                os.write(terminal, b"\x03")
            else:
                os.killpg(process, signal.SIGTERM)
    _, status = os.waitpid(process, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), output.decode("utf-8", "replace")


@pytest.mark.parametrize("server", [[], ["--server"]], ids=["here", "server"])
@pytest.mark.parametrize(("by", "code"), [("Ctrl-C", 130), ("SIGTERM", 143)])
def test_a_stop_is_orderly(
    tmp_path: Path, cross_encoder: Path, server: list[str], by: str, code: int
) -> None:
    config = make_world(tmp_path, cross_encoder, documents=40, queries=40)
    exited, output = in_terminal(tmp_path, "run", str(config), *server, by=by)
    assert exited == code, output
    assert output.count("Stopped. What was committed is kept") == 1
    for noise in ("Traceback", "Connection refused", "unexpected"):
        assert noise not in output
    again, output = in_terminal(tmp_path, "run", str(config), "--allow-rejects")
    assert again == 0, output
    assert_equal(tmp_path / "db.lancedb", undisturbed(tmp_path))
