"""Every fenced step of docs/cluster.md, as somebody types it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.engines import BIN, MARK, REPOSITORY, Engine, end, need, until

pytestmark = [pytest.mark.cluster]

PAGE = (REPOSITORY / "docs" / "cluster.md").read_text("utf-8")
BLOCKS = [block.strip().splitlines() for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)]


class Shell(Engine):
    """Where the lines of a block are typed."""

    name = "docs"

    def type(self, line: str) -> None:
        """Carry a line out; what goes on for ever is left to run once it is ready."""
        words = shlex.split(line)
        ready = {"scheduler": "Scheduler at:", "worker": "Registered to:"}.get(words[1])
        if words[0] == "dask" and ready:
            self.start(words[1], str(BIN / "dask"), *words[1:])
            until(lambda: ready in self.said(), self)
            return
        done = subprocess.run(
            [str(BIN / words[0]), *words[1:]],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}\n{self.said()}"
        if words[0] == "rescore":
            assert "scored" in done.stdout and "Traceback" not in done.stderr, done.stderr
            assert "WARNING" not in done.stderr, done.stderr  # an engine's own chatter

    def stop(self) -> None:
        """End what was typed, and what daemonised itself."""
        super().stop()
        import psutil

        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == self.name and process.pid != os.getpid():
                    end(process.pid)
            except psutil.Error:
                continue


@pytest.fixture
def shell(config: Path) -> Iterator[Shell]:
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        shell = Shell(config.parent, RAY_TMPDIR=folder)  # short: it holds sockets
        shell.environment.pop("RAY_AUTH_MODE", None)
        try:
            yield shell
        finally:
            shell.stop()


def test_the_page_has_steps() -> None:
    assert len(BLOCKS) == 4 and all("rescore run" in block[-1] for block in BLOCKS)


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: re.sub(r"\W+", "-", block[0])[:30])
def test_a_step_of_the_page(block: list[str], shell: Shell) -> None:
    need("ray" if "ray" in " ".join(block) else "dask")
    for line in block:
        shell.type(line)
