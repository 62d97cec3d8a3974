"""How long work tells what it has done (a stage, units done, units in all), and how that shows."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol


class Progress(Protocol):
    """Told after every piece of work; `total` is None while it is not known."""

    def __call__(self, stage: str, done: int, total: int | None) -> None: ...


Watch = Callable[[str], AbstractContextManager[Progress]]
"""Shows the progress of work that counts in a unit, such as `pairs`."""


def silent(stage: str, done: int, total: int | None) -> None:
    """The Progress that nobody watches."""


@contextmanager
def unwatched(unit: str) -> Iterator[Progress]:
    """The Watch that shows nothing."""
    yield silent


@contextmanager
def watch(unit: str) -> Iterator[Progress]:
    """Show bars with throughput and time left on a terminal or in a notebook, else nothing."""
    if not (sys.stderr.isatty() or "ipykernel" in sys.modules):
        yield silent
        return
    with Bars(unit) as bars:
        yield bars


class Bars:
    """One bar a stage, with units per second and the time left."""

    def __init__(self, unit: str) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as RichProgress

        self.unit = unit
        self._started = time.monotonic()
        self._stages: dict[str, Any] = {}
        self._bars = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        rate = done / max(time.monotonic() - self._started, 1e-9)
        text = f"{rate:,.0f} {self.unit}/s"
        if stage not in self._stages:
            self._stages[stage] = self._bars.add_task(stage, total=total, rate=text)
        self._bars.update(self._stages[stage], completed=done, total=total, rate=text)
