"""Progress of long work: a bar on a terminal, a Prefect progress artifact elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_EVERY = 5.0  # seconds between two updates of an artifact


class Watcher:
    """Called by the library as (stage, done, total); shows throughput and time left."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self._started = time.monotonic()
        self._shown = 0.0
        self._bar: Progress | None = None
        self._lines: dict[str, Any] = {}
        self._artifact: Any = None

    def __enter__(self) -> Watcher:
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        rate = done / max(time.monotonic() - self._started, 1e-9)
        if self._bar is not None:
            self._draw(stage, done, total, rate)
        elif total and time.monotonic() - self._shown > _EVERY and TaskRunContext.get():
            self._shown = time.monotonic()
            self._post(stage, done, total, rate)

    def _draw(self, stage: str, done: int, total: int | None, rate: float) -> None:
        assert self._bar is not None
        text = f"{rate:,.0f} {self.unit}/s"
        if stage not in self._lines:
            self._lines[stage] = self._bar.add_task(stage, total=total, rate=text)
        self._bar.update(self._lines[stage], completed=done, total=total, rate=text)

    def _post(self, stage: str, done: int, total: int, rate: float) -> None:
        left = (total - done) / rate if rate else 0.0
        text = f"{stage}: {done:,} of {total:,} {self.unit}, {rate:,.0f}/s, {left:,.0f} s left"
        percent = 100.0 * done / total
        if self._artifact is None:
            self._artifact = create_progress_artifact(percent, description=text)
        else:
            update_progress_artifact(self._artifact, progress=percent, description=text)
