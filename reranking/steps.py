"""A run's steps: what each is called, when it is tried again, and who carries it out.

The order of a run calls its steps through an Executor. `Here` calls them in this process; a flow
brings one whose every call is a task of the flow run. Both try again by the same rule.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ParamSpec, Protocol, TypeVar

from reranking.progress import Progress, Watch, watch
from reranking.retry import is_transient

log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True)
class Step:
    """A step's name for people, and the seconds to wait before each further try."""

    name: str
    delays: tuple[float, ...] = ()


def step(name: str, *delays: float) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a function as a step; after a fault that may pass it is tried again, `delays` apart."""

    def mark(work: Callable[P, R]) -> Callable[P, R]:
        work.__step__ = Step(name, delays)  # type: ignore[attr-defined]
        return work

    return mark


def step_of(work: Callable[..., Any]) -> Step:
    """Return what `step` says of a function; its own name and no second try if it says nothing."""
    marked = getattr(work, "__step__", None)
    return marked if isinstance(marked, Step) else Step(work.__name__.replace("_", "-"))


class Pending(Protocol[R_co]):
    """Work that was handed over; `result` waits for it and raises what it raised."""

    def result(self) -> R_co: ...


class Executor(Protocol):
    """Carries out the steps of a run."""

    def call(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what the step returns."""
        ...

    def submit(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Pending[R]:
        """Begin the step beside what follows."""
        ...

    def watch(self, unit: str) -> AbstractContextManager[Progress]:
        """Show the progress of a step that counts in `unit`."""
        ...


class Here:
    """Carries out steps in this process."""

    def __init__(self, watch: Watch = watch) -> None:
        self.watch = watch
        self._ahead = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead")

    def call(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what the step returns, tried again as the step says."""
        return tried(work, *args, **kwargs)

    def submit(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Pending[R]:
        """Begin the step in a thread."""
        return self._ahead.submit(lambda: tried(work, *args, **kwargs))


def tried(work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Carry out a step, and try it again after a fault that may pass."""
    marked = step_of(work)
    for delay in marked.delays:
        try:
            return work(*args, **kwargs)
        except Exception as error:
            if not is_transient(error):
                raise
            log.warning("%s: %s; trying again in %.0f s", marked.name, error, delay)
        time.sleep(delay)
    return work(*args, **kwargs)
