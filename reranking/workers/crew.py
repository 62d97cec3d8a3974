"""The workers of a job, whatever engine runs them, and how work is handed out to them.

Every worker has at most two pieces of work: the one it is at, and the next, so that it never waits
for the driver. A worker may come and go at any time; what it had not finished goes to others.
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from configs.schema import Config
from reranking.errors import MissingPrerequisite, RescoreError, StoreAway, ToBeContinued

log = logging.getLogger(__name__)

LOSSES = 3  # workers that a piece of work may take with it
AT_HAND = 2  # pieces of work that a worker has: one is worked on, one waits
_LOOK = 0.5  # seconds between two looks at who is there
_SOON = 10.0  # seconds after which is said that workers are missing
_REMIND = 60.0  # seconds between two such lines
_PAUSE = 5.0  # seconds before a store that did not answer is asked again
_PATIENCE = 600.0  # seconds for which it is


_LACKING = (ImportError, AttributeError, TypeError)
_LACKS = re.compile(r"^(?:ModuleNotFound|Import|Attribute)Error: ", re.MULTILINE)
"""What an engine quotes of a worker that cannot read what is sent to it."""


class WorkerLost(Exception):
    """A worker is gone; what it worked on is not done."""


class Worker(Protocol):
    """One process (or thread) that works on one thing at a time."""

    def submit(self, work: Callable[..., Any], /, *args: Any) -> Future[Any]: ...


def relayed(theirs: Future[Any], seen: Callable[[BaseException], BaseException]) -> Future[Any]:
    """Return a future of an engine's result; `seen` has its error before those who wait for it."""
    ours: Future[Any] = Future()

    def hand_on(done: Future[Any]) -> None:
        if not ours.set_running_or_notify_cancel():
            return
        try:
            result = done.result()
        except BaseException as error:
            ours.set_exception(seen(error))
        else:
            ours.set_result(result)

    theirs.add_done_callback(hand_on)
    return ours


class Crew(Protocol):
    """The workers of one engine."""

    least: int  # workers without which the job is not begun

    @property
    def waiting(self) -> int:
        """Workers that wait for a place on the cluster."""
        ...

    def present(self) -> Mapping[str, Worker]:
        """The workers that are there now, by name; a dead one is not, a new one is."""
        ...


@dataclass
class Tally:
    """What was handed out so far, for whoever shows progress."""

    of: int
    done: int = 0
    workers: int = 0
    lost: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    results: dict[int, Any] = field(default_factory=dict)
    tried_again: set[int] = field(default_factory=set)
    deadly: dict[int, BaseException] = field(default_factory=dict)
    ended: bool = False  # a limit was reached: nothing more is handed out

    @property
    def whole(self) -> bool:
        """Whether nothing is left that could be done."""
        return self.done + len(self.deadly) >= self.of


Submit = Callable[[Worker, int, bool], Future[Any]]
"""Hand a piece of work to a worker; True: a lost worker has done a part of it, perhaps."""


def hand_out(
    crew: Crew,
    items: Sequence[int],
    submit: Submit,
    *,
    admit: Callable[[Worker], Future[str | None]] | None = None,
    tell: Callable[[Tally], None] = lambda tally: None,
    enough: Callable[[Tally], bool] = lambda tally: False,
) -> Tally:
    """Have the workers do all items; their results, and the items that took worker after worker.

    `admit` asks a new worker whether it can do the work at all: None, or why not. Once `enough`
    was done, or a worker raised ToBeContinued, nothing more is handed out, and what is at hand is
    waited for. Raises MissingPrerequisite if nobody can do the work, and whatever else of ours
    (RescoreError) a worker raises.
    """
    return _Shift(crew, items, submit, admit, tell, enough).work()


@dataclass
class _Bench:
    """A worker with the work that it has."""

    worker: Worker
    asked: Future[str | None] | None  # until it has answered `admit`
    work: deque[tuple[int, Future[Any]]] = field(default_factory=deque)


class _Shift:
    def __init__(
        self,
        crew: Crew,
        items: Sequence[int],
        submit: Submit,
        admit: Callable[[Worker], Future[str | None]] | None,
        tell: Callable[[Tally], None],
        enough: Callable[[Tally], bool],
    ) -> None:
        self.crew, self.submit, self.admit, self.tell = crew, submit, admit, tell
        self.enough = enough
        self.left, self.tally = deque(items), Tally(len(items))
        self.benches: dict[str, _Bench] = {}
        self.losses: Counter[int] = Counter()
        self.began = self.said = self.looked = time.monotonic()
        self.told = False
        self.away_since: float | None = None  # when the store ceased to answer
        self.pause_until = 0.0

    def work(self) -> Tally:
        tally = self.tally
        self._look()
        while not tally.whole and not (tally.ended and self._idle):
            self._check_present()
            self._fill()
            flying = [f for b in self.benches.values() for f in self._futures(b)]
            if flying:
                wait(flying, timeout=_LOOK, return_when=FIRST_COMPLETED)
            else:
                time.sleep(_LOOK)
            for name in list(self.benches):
                self._collect(name)
            if time.monotonic() - self.looked >= _LOOK:
                self._look()
        return tally

    @property
    def _idle(self) -> bool:
        return not any(bench.work for bench in self.benches.values())

    def _futures(self, bench: _Bench) -> list[Future[Any]]:
        return [bench.asked] if bench.asked else [f for _, f in bench.work]

    def _look(self) -> None:
        """Meet new workers, and miss those that are gone."""
        present = self.crew.present()
        self.looked = time.monotonic()
        for name in [n for n in self.benches if n not in present]:
            self._collect(name)
            if name in self.benches:
                self._lose(name, WorkerLost(f"worker {name} is gone"))
        for name, worker in present.items():
            if name not in self.benches and name not in self.tally.refused:
                asked = None if self.admit is None else self.admit(worker)
                self.benches[name] = _Bench(worker, asked)
        self._count()

    def _count(self) -> None:
        self.tally.workers = sum(bench.asked is None for bench in self.benches.values())
        self.tell(self.tally)
        self.tally.ended = self.tally.ended or self.enough(self.tally)

    def _fill(self) -> None:
        """Give work to whoever has none, then a second piece while there is enough for all."""
        if self.tally.ended or time.monotonic() < self.pause_until:
            return
        ready = [bench for bench in self.benches.values() if bench.asked is None]
        for depth in range(AT_HAND):
            for bench in ready:
                enough = depth == 0 or len(self.left) >= len(ready)
                if self.left and enough and len(bench.work) <= depth:
                    item = self.left.popleft()
                    again = item in self.tally.tried_again
                    bench.work.append((item, self.submit(bench.worker, item, again)))

    def _collect(self, name: str) -> None:
        """Take what a worker has finished."""
        bench = self.benches[name]
        if bench.asked is not None:
            if bench.asked.done():
                self._welcome(name, bench)
            return
        while bench.work and bench.work[0][1].done():
            item, future = bench.work[0]
            try:
                result = future.result()
            except ToBeContinued:  # it has committed what it did
                bench.work.popleft()
                self.tally.ended = True
                continue
            except StoreAway as error:
                bench.work.popleft()
                self._wait_for_store(item, error)
                continue
            except RescoreError:  # would be no better in another worker
                raise
            except Exception as error:
                self._blame(name, bench, error)
                return
            bench.work.popleft()
            self.away_since = None
            self.tally.results[item] = result
            self.tally.done += 1
            self._count()

    def _wait_for_store(self, item: int, error: StoreAway) -> None:
        """Hand nothing out for a while: the work was in vain and its worker is as good as ever."""
        now = time.monotonic()
        self.away_since = self.away_since or now
        if now - self.away_since > _PATIENCE:
            raise error
        if now >= self.pause_until:
            self.pause_until = now + _PAUSE
            log.warning(
                "%s: waiting for it since %.0f s (%d of %d done)",
                *(error, now - self.away_since, self.tally.done, self.tally.of),
            )
        self.tally.tried_again.add(item)
        self.left.append(item)

    def _welcome(self, name: str, bench: _Bench) -> None:
        assert bench.asked is not None
        try:
            fault = bench.asked.result()
        except Exception as error:
            said = (str(error).strip().splitlines() or [""])[-1].strip()
            if isinstance(error, _LACKING) or _LACKS.search(str(error)):
                kind = type(error).__name__ if isinstance(error, _LACKING) else "remotely"
                fault = f"it has another version of rescore ({kind}: {said})"
            else:
                del self.benches[name]  # it is met again if it comes back
                log.warning("worker %s was lost before its first chunk: %s", name, said)
                self.tally.lost += 1
                return
        bench.asked = None
        if fault is not None:
            del self.benches[name]
            self.tally.refused[name] = fault
            log.warning("worker %s is not used: %s", name, fault)
        self._count()

    def _blame(self, name: str, bench: _Bench, error: Exception) -> None:
        """A piece of work failed: the worker may live on, if it does it is asked for more."""
        if name in self.crew.present():
            item, _ = bench.work.popleft()
            self._again(item, error)
        else:
            self._lose(name, error)

    def _lose(self, name: str, error: BaseException) -> None:
        """Give a lost worker's work to others; only what it was at counts as its cause."""
        bench = self.benches.pop(name)
        self.tally.lost += 1
        log.warning("worker %s is lost: %s", name, str(error).strip().splitlines()[:1])
        for at, (item, future) in enumerate(bench.work):
            future.cancel()
            if at == 0:
                self._again(item, error)
            else:
                self.left.appendleft(item)
        self._count()

    def _again(self, item: int, error: BaseException) -> None:
        self.losses[item] += 1
        self.tally.tried_again.add(item)
        if self.losses[item] < LOSSES:
            self.left.append(item)
        else:
            self.tally.deadly[item] = error

    def _check_present(self) -> None:
        """Say within seconds that workers are missing; refuse to wait for those that cannot come.

        Once work has begun the job waits for workers to come back: they may have been preempted.
        """
        tally, now = self.tally, time.monotonic()
        begun = bool(tally.done or self.losses or any(b.work for b in self.benches.values()))
        asked = any(bench.asked is not None for bench in self.benches.values())
        refused = "; ".join(f"{name}: {why}" for name, why in tally.refused.items())
        if not self.benches and tally.refused and not begun and not self.crew.waiting:
            raise MissingPrerequisite(f"no worker can do this job. {refused}")
        waited = now - (self.said if self.told else self.began)
        if tally.workers or waited < (_REMIND if self.told else _SOON):
            if tally.workers:
                self.began, self.told = now, False
            return
        if not begun and not asked and self.crew.least:
            raise MissingPrerequisite(
                f"no worker is there after {waited:.0f} s: start workers, or set execution.workers "
                "to {min: 0, max: N} to wait for a cluster that starts them when they are asked for"
                + (f". {refused}" if refused else "")
            )
        self.said, self.told = now, True
        waiting = "are not ready yet" if asked else "are there"
        log.warning(
            "%s workers %s: waiting (%d of %d done)%s",
            "the" if asked else "no",
            waiting,
            tally.done,
            tally.of,
            f"; not used: {refused}" if refused else "",
        )


def open_crew(config: Config) -> AbstractContextManager[Crew]:
    """Start (or find) the configured workers, which end (or are let go) with the block.

    Raises MissingPrerequisite if the runner's extra is not installed, or the cluster lacks what a
    worker needs.
    """
    from reranking.workers.local import processes, threads
    from reranking.workers.on_dask import dask_workers
    from reranking.workers.on_ray import ray_workers

    runners: dict[str, Callable[[Config], AbstractContextManager[Crew]]] = {
        "threads": threads,
        "processes": processes,
        "ray": ray_workers,
        "dask": dask_workers,
    }
    return runners[config.execution.runner](config)


def lacking_extra(extra: str) -> MissingPrerequisite:
    """The error of a runner whose extra is not installed."""
    return MissingPrerequisite(
        f"execution.runner {extra} needs the extra `{extra}`: pip install 'rescore[{extra}]', on "
        "this machine and on the workers"
    )
