"""The progress of all workers of a run, in one line."""

from __future__ import annotations

import time

from reranking.progress import Progress, Status
from reranking.workers.crew import Tally


class Teller:
    """Shows the progress of all workers in one line."""

    def __init__(self, progress: Progress, chunks: int) -> None:
        self._progress, self._chunks = progress, chunks
        self._began = time.monotonic()

    def __call__(self, tally: Tally) -> None:
        pairs = sum(report["pairs"] for report in tally.results.values())
        scored = sum(report["scored"] for report in tally.results.values())
        note = f"{tally.done} of {self._chunks} chunks, {tally.workers} workers"
        if tally.lost:
            note += f", {tally.lost} lost"
        if tally.refused:
            note += f", {len(tally.refused)} refused"
        if tally.workers and scored:
            rate = scored / (time.monotonic() - self._began)
            note += f", {rate:,.1f} pairs/s scored, {rate / tally.workers:,.1f} a worker"
        total = round(pairs * self._chunks / tally.done) if tally.done else None
        self._progress(Status("score", pairs, total, tally.done / self._chunks, note))
