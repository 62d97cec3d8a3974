"""The workers that `execution` asks for: threads, processes, or those of a Ray or Dask cluster.

A worker opens the tables itself, loads its model once, and commits its own chunks. Nobody holds a
lease: whether a chunk is searched and which of its pairs are scored is read from the tables, so
whoever works on a chunk again does only what is not done.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from multiprocessing.connection import wait
from typing import Any, Protocol

from configs.schema import Config
from reranking.errors import MissingPrerequisite

_CALLS = 100  # of a process, before a fresh one takes over: no leak grows for longer
_POLL = 0.5  # seconds between two looks of a worker at its parent

_place = threading.local()  # `number`: which worker this thread (or its process) is


class Workers(Protocol):
    """Hands work to some worker."""

    def submit(self, work: Callable[..., Any], /, *args: Any) -> Future[Any]: ...


def open_workers(config: Config) -> AbstractContextManager[Workers]:
    """Start (or find) the configured workers, which end (or are let go) with the block.

    Raises MissingPrerequisite if the runner's extra is not installed.
    """
    return _RUNNERS[config.execution.runner](config)


@contextmanager
def _threads(config: Config) -> Iterator[Workers]:
    numbers = itertools.count()

    def begin() -> None:
        _place.number = next(numbers)

    with ThreadPoolExecutor(config.execution.workers, initializer=begin) as pool:
        yield pool


@contextmanager
def _processes(config: Config) -> Iterator[Workers]:
    spawn = multiprocessing.get_context("spawn")  # a forked LanceDB hangs
    stop, workers = spawn.Event(), config.execution.workers
    pool = ProcessPoolExecutor(
        workers,
        mp_context=spawn,
        initializer=_begin,
        initargs=(spawn.Value("i", 0), stop, workers),
        max_tasks_per_child=_CALLS,
    )
    try:
        yield pool
    except BaseException:  # the workers commit what they have, too
        stop.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(counter: Any, stop: Any, workers: int) -> None:
    """Number this worker, give it its share of the cores, and tie it to its parent."""
    with counter.get_lock():
        _place.number, counter.value = counter.value, counter.value + 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda number, _: sys.exit(128 + number))
    threading.Thread(target=_follow_parent, args=(stop,), daemon=True).start()


def _follow_parent(stop: Any) -> None:
    """End this process in order when it is told to stop, at once if its parent has died."""
    parent = multiprocessing.parent_process()
    while parent is not None and not stop.is_set():
        if wait([parent.sentinel], timeout=_POLL):
            os._exit(1)
    os.kill(os.getpid(), signal.SIGTERM)


class _RayWorkers:
    def __init__(self, gpus: int) -> None:
        self._gpus = gpus

    def submit(self, work: Callable[..., Any], /, *args: Any) -> Future[Any]:
        import ray

        # max_calls 0: a task with GPUs would otherwise get a new process, and load its model again
        options = {"num_cpus": 1, "num_gpus": self._gpus, "max_retries": 0, "max_calls": 0}
        remote = ray.remote(**options)(work)
        future: Future[Any] = remote.remote(*args).future()
        return future


@contextmanager
def _ray(config: Config) -> Iterator[Workers]:
    try:
        import ray
    except ImportError as error:
        raise _lacking("ray") from error
    address = config.execution.address
    started = not ray.is_initialized()
    if started:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        here = {"num_cpus": config.execution.workers, "include_dashboard": False}
        ray.init(address, **({} if address else here))
    try:
        yield _RayWorkers(_gpus(config))
    finally:
        if started:
            ray.shutdown()


@contextmanager
def _dask(config: Config) -> Iterator[Workers]:
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise _lacking("dask") from error
    address, gpus = config.execution.address, _gpus(config)
    with ExitStack() as stack:
        cluster = address or stack.enter_context(
            LocalCluster(
                n_workers=config.execution.workers,
                threads_per_worker=1,
                dashboard_address=None,
                resources={"GPU": gpus},
            )
        )
        client = stack.enter_context(Client(cluster))
        offered = [w.get("resources", {}) for w in client.scheduler_info()["workers"].values()]
        # Workers that offer no resource (`dask worker` alone) would be waited for in vain.
        asked = {"GPU": gpus} if gpus and any(o.get("GPU", 0) >= gpus for o in offered) else {}
        with client.get_executor(pure=False, retries=0, resources=asked or None) as pool:
            yield pool


_RUNNERS: dict[str, Callable[[Config], AbstractContextManager[Workers]]] = {
    "threads": _threads,
    "processes": _processes,
    "ray": _ray,
    "dask": _dask,
}


def _lacking(extra: str) -> MissingPrerequisite:
    return MissingPrerequisite(
        f"execution.runner {extra} needs the extra `{extra}`: pip install 'rescore[{extra}]', on "
        "this machine and on the workers"
    )


def _gpus(config: Config) -> int:
    """The GPUs to reserve for a worker; none for work on CPU, none if this machine has none."""
    if config.rerank is not None and config.rerank.device == "cpu":
        return 0
    if config.execution.address is None and not _cuda_devices():
        return 0
    return config.execution.gpus_per_worker


def _cuda_devices() -> int:
    import torch

    return torch.cuda.device_count()


def on_own_devices(config: Config, number: int | None = None, present: int | None = None) -> Config:
    """Return the config as the worker `number` uses it: with GPUs of its own.

    None: this worker and the GPUs here. A config that names its devices stays as it is, and so
    does every config in a cluster, which hands out GPUs itself.
    """
    number = getattr(_place, "number", None) if number is None else number
    gpus = config.execution.gpus_per_worker
    if number is None or not gpus or config.rerank is None or config.rerank.device is not None:
        return config
    present = _cuda_devices() if present is None else present
    if not present:
        return config
    own = [f"cuda:{(number * gpus + i) % present}" for i in range(min(gpus, present))]
    rerank = config.rerank.model_copy(update={"device": own[0] if len(own) == 1 else own})
    encoder = config.documents.encoder
    if encoder is not None and encoder.device is None:
        encoder = encoder.model_copy(update={"device": own[0]})
    documents = config.documents.model_copy(update={"encoder": encoder})
    return config.model_copy(update={"rerank": rerank, "documents": documents})
