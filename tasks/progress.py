"""Progress of long work within a flow run: bars on a terminal, a progress artifact elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext

from reranking.progress import Bars

_EVERY = 5.0  # seconds between two updates of an artifact


class Watcher:
    """Called by the library as (stage, done, total); shows throughput and time left."""

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self._started = time.monotonic()
        self._shown = 0.0
        self._bars = Bars(unit) if sys.stderr.isatty() else None
        self._artifact: Any = None

    def __enter__(self) -> Watcher:
        if self._bars is not None:
            self._bars.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.__exit__()

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        if self._bars is not None:
            self._bars(stage, done, total)
        elif total and time.monotonic() - self._shown > _EVERY and TaskRunContext.get():
            self._shown = time.monotonic()
            self._post(stage, done, total)

    def _post(self, stage: str, done: int, total: int) -> None:
        rate = done / max(time.monotonic() - self._started, 1e-9)
        left = (total - done) / rate if rate else 0.0
        text = f"{stage}: {done:,} of {total:,} {self.unit}, {rate:,.0f}/s, {left:,.0f} s left"
        percent = 100.0 * done / total
        if self._artifact is None:
            self._artifact = create_progress_artifact(percent, description=text)
        else:
            update_progress_artifact(self._artifact, progress=percent, description=text)
