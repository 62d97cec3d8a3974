"""Progress of long work within a flow run: as without Prefect, and on the flow run's page."""

from __future__ import annotations

import time
from typing import Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext

from reranking.progress import Pace

_EVERY = 5.0  # seconds between two updates of an artifact


class Watcher:
    """The Progress that keeps an artifact of the task run up to date; its last state is final."""

    def __init__(self, unit: str) -> None:
        self.pace = Pace(unit)
        self._shown = time.monotonic()
        self._last: tuple[str, int, int | None, float | None, str] | None = None
        self._artifact: Any = None

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        if self._artifact is not None and self._last is not None:
            self._post(*self._last)

    def __call__(
        self,
        stage: str,
        done: int,
        total: int | None,
        share: float | None = None,
        note: str = "",
    ) -> None:
        self.pace.mark(stage, done)
        self._last = stage, done, total, share, note
        if total and time.monotonic() - self._shown > _EVERY and TaskRunContext.get():
            self._shown = time.monotonic()
            self._post(stage, done, total, share, note)

    def _post(
        self, stage: str, done: int, total: int | None, share: float | None, note: str
    ) -> None:
        text = self.pace.text(stage, done, total, share, note)
        percent = 100.0 * done / total if total else 0.0
        if self._artifact is None:
            self._artifact = create_progress_artifact(percent, description=text)
        else:
            update_progress_artifact(self._artifact, progress=percent, description=text)
