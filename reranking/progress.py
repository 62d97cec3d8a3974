"""How long work tells what it has done, and how that shows: bars on a terminal, else log lines."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)
EVERY = 30.0  # seconds between two lines
NOTICE = 25  # a log level between info and warning: said on a terminal too, but nothing is wrong
_READ = 2000  # characters of a text that a model reads, about: longer ones are cut


@dataclass(frozen=True)
class Status:
    """How far a stage is; `total` is None while it is not known.

    `share` is the part of the work that is done, 0 to 1, if units differ in weight: long texts
    come first, so the units alone would promise too long a wait. `note` says what else is known.
    """

    stage: str
    done: int
    total: int | None = None
    share: float | None = None
    note: str = ""


Progress = Callable[[Status], None]
"""Told after every piece of work."""
Watch = Callable[[str], AbstractContextManager[Progress]]
"""Shows the progress of work that counts in a unit, such as `pairs`."""


def silent(status: Status) -> None:
    """The Progress that nobody watches."""


@contextmanager
def unwatched(unit: str) -> Iterator[Progress]:
    """The Watch that shows nothing."""
    yield silent


@contextmanager
def watch(unit: str) -> Iterator[Progress]:
    """Show bars on a terminal or in a notebook, else log a line now and then.

    Nothing is shown if this module's logger takes errors only.
    """
    if not log.isEnabledFor(logging.WARNING):
        yield silent
    elif sys.stderr.isatty() or "ipykernel" in sys.modules:
        with Bars(unit) as bars:
            yield bars
    else:
        with Lines(unit) as lines:
            yield lines


def weights_of(texts: Iterable[str]) -> NDArray[np.float64]:
    """Return how much work each text is, in characters that a model reads."""
    return np.array([50.0 + min(len(text), _READ) for text in texts])


def shares_of(texts: Iterable[str]) -> list[float]:
    """Return the part of the work that is done with each of the texts, 0 to 1."""
    weights = weights_of(texts)
    return list((np.cumsum(weights) / weights.sum()).tolist()) if len(weights) else []


class Pace:
    """How fast each stage goes, and the time it still needs."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self._began: dict[str, float] = {}
        self._last = time.monotonic()

    def mark(self, status: Status) -> None:
        """Take the time; a stage that does not say its beginning began when the last one ended."""
        now = time.monotonic()
        self._began.setdefault(status.stage, self._last if status.done else now)
        self._last = now

    def seconds(self, stage: str) -> float:
        """The seconds that the stage has lasted."""
        return max(self._last - self._began[stage], 1e-9)

    def rate(self, status: Status) -> str:
        """Units per second since the stage began."""
        rate = status.done / self.seconds(status.stage)
        return f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.2g} {self.unit}/s"

    def left(self, status: Status) -> str:
        """The time that the stage still needs if the rest goes as what is done, or nothing."""
        share = status.share
        if share is None and status.total:
            share = status.done / status.total
        if not share or share >= 1:
            return ""
        return f"{duration(self.seconds(status.stage) * (1 - share) / share)} left"

    def text(self, status: Status) -> str:
        """One line about the stage: units done, units per second, time left."""
        of = "" if status.total is None else f" of {status.total:,}"
        parts = [f"{status.done:,}{of} {self.unit}", self.rate(status), self.left(status)]
        return f"{status.stage}: {', '.join(part for part in [*parts, status.note] if part)}"


def duration(seconds: float) -> str:
    """Return seconds as people say them: 8 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


class Lines:
    """A line in the log every half minute that a stage lasts, and one at its end."""

    def __init__(self, unit: str) -> None:
        self.pace = Pace(unit)
        self._last: dict[str, Status] = {}
        self._said = time.monotonic()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        for stage, last in self._last.items():
            if len(self._last) > 1 and self.pace.seconds(stage) < 1:
                continue  # a rate of no time says nothing
            took, rate = duration(self.pace.seconds(stage)), self.pace.rate(last)
            log.info("%s: %s %s in %s, %s", stage, f"{last.done:,}", self.pace.unit, took, rate)

    def __call__(self, status: Status) -> None:
        self.pace.mark(status)
        self._last[status.stage] = status
        if time.monotonic() - self._said >= EVERY:
            self._said = time.monotonic()
            log.info("%s", self.pace.text(status))


class Bars:
    """One bar a stage, with units per second and the time left."""

    def __init__(self, unit: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as RichProgress

        self.pace = Pace(unit)
        self._stages: dict[str, Any] = {}
        self._bars = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            console=Console(stderr=True),
            transient=True,
        )

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, status: Status) -> None:
        self.pace.mark(status)
        parts = self.pace.rate(status), self.pace.left(status), status.note
        facts = ", ".join(part for part in parts if part)
        if status.stage not in self._stages:
            self._stages[status.stage] = self._bars.add_task(status.stage, facts="")
        bar = self._stages[status.stage]
        self._bars.update(bar, completed=status.done, total=status.total, facts=facts)
