"""A driver in a process of its own, to be killed: the job in the order of the library."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from tests.support.engines import REPOSITORY, end
from tests.support.gate import Gate


class Driver:
    """`walk_file` with a gate, as a process."""

    def __init__(self, config: Path, gate: Gate, overrides: list[str]) -> None:
        Path(gate.folder).mkdir(parents=True, exist_ok=True)
        self._log = Path(gate.folder) / "driver.log"
        given = json.dumps([str(config), asdict(gate), overrides])
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.driver", given],
                cwd=REPOSITORY,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ended(self) -> bool:
        """Whether it is done, well or not."""
        return self.process.poll() is not None

    def kill(self) -> None:
        """Kill it and what it has started, as kill -9 does."""
        end(self.process.pid)
        self.process.wait()

    def said(self) -> str:
        return self._log.read_text("utf-8", "replace")


def main() -> None:
    import pytest

    from reranking.runs import others
    from tests.support.walk import walk_file

    config, gate, overrides = json.loads(sys.argv[1])
    with pytest.MonkeyPatch.context() as patch:
        Gate(**gate).install(patch)
        patch.setattr(others, "_LOOK", 0.0)  # jobs of tests are short
        walk_file(Path(config), *overrides)


if __name__ == "__main__":
    main()
