"""How much a night may do: seconds and pairs; then work ends at a commit and goes on later."""

from __future__ import annotations

import time
from typing import NoReturn

from configs.execution import Execution
from reranking.errors import ToBeContinued
from reranking.progress import Progress, Status, duration


class Budget:
    """What a job may still do, from the moment that it is made."""

    def __init__(self, execution: Execution) -> None:
        self._most_seconds, self._most_pairs = execution.max_seconds, execution.max_pairs
        self._began = time.monotonic()
        self.pairs = 0  # scored so far

    @property
    def seconds_left(self) -> float | None:
        """Seconds until `max_seconds` are over, None without it."""
        if self._most_seconds is None:
            return None
        return max(self._most_seconds - (time.monotonic() - self._began), 0.0)

    def spent(self) -> str | None:
        """Return why nothing is left, None if something is."""
        if self._most_pairs is not None and self.pairs >= self._most_pairs:
            return f"{self.pairs:,} pairs were scored, execution.max_pairs is {self._most_pairs:,}"
        if self.seconds_left == 0:
            took = duration(time.monotonic() - self._began)
            return (
                f"execution.max_seconds ({self._most_seconds:g}) ended the work after {took}, "
                f"with {self.pairs:,} pairs scored"
            )
        return None

    def check(self) -> None:
        """Raise ToBeContinued if nothing is left."""
        if (reason := self.spent()) is not None:
            self.stop(reason)

    def stop(self, reason: str) -> NoReturn:
        """Raise ToBeContinued."""
        message = f"to be continued: {reason}. Start the same command again to go on"
        values = {"status": "to be continued", "run_id": None, "reason": message}
        raise ToBeContinued(message, values | {"scored": self.pairs, "rejected": 0})

    def limited(self, progress: Progress, *, scoring: bool = False) -> Progress:
        """Return a Progress that ends the work whose progress it is told, unless that is done.

        Whoever works commits what is done when its progress raises. `scoring`: the units are pairs.
        """
        before = 0

        def tell(status: Status) -> None:
            nonlocal before
            progress(status)
            if scoring:
                self.pairs += status.done - before
                before = status.done
            if status.total is not None and status.done < status.total:
                self.check()

        return tell
