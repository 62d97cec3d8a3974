"""Workers on this machine: threads, or processes that end with their parent."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import wait
from typing import Any

from configs.schema import Config
from reranking.workers.crew import Worker, relayed
from reranking.workers.devices import place

_CALLS = 100  # of a process, before a fresh one takes over: no leak grows for longer
_POLL = 0.5  # seconds between two looks of a worker at its parent


class _Fixed:
    """A crew that stays as it is."""

    least, waiting = 1, 0

    def __init__(self, workers: Mapping[str, Worker]) -> None:
        self._workers = workers

    def present(self) -> Mapping[str, Worker]:
        return self._workers


@contextmanager
def threads(config: Config) -> Iterator[_Fixed]:
    """One thread a worker."""

    def begin(number: int) -> None:
        place.number = number

    pools = {
        f"thread {number}": ThreadPoolExecutor(1, initializer=begin, initargs=(number,))
        for number in range(config.execution.most)
    }
    try:
        yield _Fixed(pools)
    finally:
        for pool in pools.values():
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in pools.values():
            pool.shutdown()


class _Process:
    """A worker whose process, once it is seen to be dead, is replaced."""

    def __init__(self, number: int, workers: int) -> None:
        self._spawn = multiprocessing.get_context("spawn")  # a forked LanceDB hangs
        self._number, self._count = number, workers
        self.stop = self._spawn.Event()
        self._start()

    def _start(self) -> None:
        self.dead = False
        self.pool = ProcessPoolExecutor(
            1,
            mp_context=self._spawn,
            initializer=_begin,
            initargs=(self._number, self.stop, self._count),
            max_tasks_per_child=_CALLS,
        )

    def submit(self, work: Callable[..., Any], /, *args: Any) -> Future[Any]:
        try:
            theirs = self.pool.submit(work, *args)
        except BrokenProcessPool as error:  # it died while it had nothing to do
            theirs = Future()
            theirs.set_exception(error)
        return relayed(theirs, partial(self._seen, self.pool))

    def _seen(self, pool: ProcessPoolExecutor, error: BaseException) -> BaseException:
        if pool is self.pool:  # and not one that was replaced already
            self.dead = self.dead or isinstance(error, BrokenProcessPool)
        return error

    def replace(self) -> None:
        """Begin again with a new process."""
        self.pool.shutdown(wait=False)
        self._start()


class _Processes(_Fixed):
    """Processes by number; a dead one is met again under another name."""

    def __init__(self, count: int) -> None:
        self.processes = [_Process(number, count) for number in range(count)]
        self._lives = [0] * count

    def present(self) -> Mapping[str, Worker]:
        for number, process in enumerate(self.processes):
            if process.dead:
                process.replace()
                self._lives[number] += 1
        return {
            f"process {number}" + (f" (start {life + 1})" if life else ""): process
            for number, (process, life) in enumerate(zip(self.processes, self._lives, strict=True))
        }


@contextmanager
def processes(config: Config) -> Iterator[_Processes]:
    """One process a worker."""
    crew = _Processes(config.execution.most)
    try:
        yield crew
    except BaseException:  # the workers commit what they have, too
        for process in crew.processes:
            process.stop.set()
        raise
    finally:
        for process in crew.processes:
            process.pool.shutdown(wait=False, cancel_futures=True)
        for process in crew.processes:
            process.pool.shutdown()


def _begin(number: int, stop: Any, workers: int) -> None:  # noqa: ANN401
    """Number this worker, give it its share of the cores, and tie it to its parent."""
    place.number = number
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda number, _: sys.exit(128 + number))
    threading.Thread(target=_follow_parent, args=(stop,), daemon=True).start()


def _follow_parent(stop: Any) -> None:  # noqa: ANN401
    """End this process in order when it is told to stop, at once if its parent has died."""
    parent = multiprocessing.parent_process()
    while parent is not None and not stop.is_set():
        if wait([parent.sentinel], timeout=_POLL):
            os._exit(1)
    os.kill(os.getpid(), signal.SIGTERM)
