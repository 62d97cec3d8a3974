"""Progress of long work within a flow run: as without Prefect, and on the flow run's page."""

from __future__ import annotations

import time
from typing import Any

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext

from reranking.progress import Pace, Status

_EVERY = 5.0  # seconds between two updates of an artifact


class Watcher:
    """The Progress that keeps an artifact of the task run up to date; its last state is final."""

    def __init__(self, unit: str) -> None:
        self.pace = Pace(unit)
        self._shown = time.monotonic()
        self._last: Status | None = None
        self._artifact: Any = None

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        if self._artifact is not None and self._last is not None:
            self._post(self._last)

    def __call__(self, status: Status) -> None:
        self.pace.mark(status)
        self._last = status
        if status.total and time.monotonic() - self._shown > _EVERY and TaskRunContext.get():
            self._shown = time.monotonic()
            self._post(status)

    def _post(self, status: Status) -> None:
        text = self.pace.text(status)
        percent = 100.0 * status.done / status.total if status.total else 0.0
        if self._artifact is None:
            self._artifact = create_progress_artifact(percent, description=text)
        else:
            update_progress_artifact(self._artifact, progress=percent, description=text)
