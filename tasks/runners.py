"""The workers that `execution` asks for, behind Prefect's task runners: one adapter each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import wait
from typing import Any

from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from configs.schema import Config
from reranking.errors import MissingPrerequisite

Runner = TaskRunner[Any]
_CHUNKS = 100  # of a process, before a fresh one takes over: no leak grows for longer
_POLL = 0.5  # seconds between two looks of a worker at its parent

_number: int | None = None  # which worker of a process pool this process is


def runner_of(config: Config) -> AbstractContextManager[Runner]:
    """The configured task runner, which ends with the block; `submit` hands work to a worker.

    Raises MissingPrerequisite where the runner's extra is not installed.
    """
    return _RUNNERS[config.execution.runner](config)


def chunks_of_a_round(config: Config) -> int | None:
    """How many chunks the runner's workers may do before they are replaced; None: all of them."""
    execution = config.execution
    return _CHUNKS * execution.workers if execution.runner == "processes" else None


@contextmanager
def _threads(config: Config) -> Iterator[Runner]:
    with ThreadPoolTaskRunner(max_workers=config.execution.workers) as runner:
        yield runner


@contextmanager
def _processes(config: Config) -> Iterator[Runner]:
    spawn = multiprocessing.get_context("spawn")  # a forked LanceDB hangs
    stop = spawn.Event()
    workers = config.execution.workers
    runner: Runner = ProcessPoolTaskRunner(
        max_workers=workers, initializer=_begin, initargs=(spawn.Value("i", 0), stop, workers)
    )
    with runner:
        try:
            yield runner
        except BaseException:  # the workers commit what they have, too
            stop.set()
            raise


def _begin(counter: Any, stop: Any, workers: int) -> None:
    """Number this worker, give it its share of the cores, and tie it to its parent."""
    global _number
    with counter.get_lock():
        _number, counter.value = counter.value, counter.value + 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, lambda number, _: sys.exit(128 + number))
    threading.Thread(target=_follow_parent, args=(stop,), daemon=True).start()


def _follow_parent(stop: Any) -> None:
    """End this process in order when it is told to stop, at once where its parent has died."""
    parent = multiprocessing.parent_process()
    while parent is not None and not stop.is_set():
        if wait([parent.sentinel], timeout=_POLL):
            os._exit(1)
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _ray(config: Config) -> Iterator[Runner]:
    try:
        from prefect_ray import RayTaskRunner
        from prefect_ray.context import remote_options
    except ImportError as error:
        raise _lacking("ray") from error
    address, gpus = config.execution.address, _gpus(config)
    here = {"num_cpus": config.execution.workers, "include_dashboard": False}
    with (
        RayTaskRunner(address, {} if address else here) as runner,
        remote_options(num_cpus=1, num_gpus=gpus),
    ):
        yield runner


@contextmanager
def _dask(config: Config) -> Iterator[Runner]:
    try:
        import dask
        from prefect_dask import DaskTaskRunner
    except ImportError as error:
        raise _lacking("dask") from error
    address, gpus = config.execution.address, _gpus(config)
    here = {
        "n_workers": config.execution.workers,
        "threads_per_worker": 1,
        "dashboard_address": None,
        "resources": {"GPU": gpus},
    }
    wanted = {"GPU": gpus} if gpus else {}
    with (
        DaskTaskRunner(address=address, cluster_kwargs=None if address else here) as runner,
        dask.annotate(resources=wanted),
    ):
        yield runner


_RUNNERS: dict[str, Callable[[Config], AbstractContextManager[Runner]]] = {
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
    """The GPUs to reserve for a worker; none for work on CPU, none where this machine has none."""
    if config.rerank is not None and config.rerank.device == "cpu":
        return 0
    if config.execution.address is None and not _cuda_devices():
        return 0
    return config.execution.gpus_per_worker


def _cuda_devices() -> int:
    import torch

    return torch.cuda.device_count()


def on_own_devices(config: Config, number: int | None = None, present: int | None = None) -> Config:
    """The config as the worker `number` of a process pool uses it: with GPUs of its own.

    None: this process and the GPUs here. A config that names its devices, and every config in a
    thread or in a cluster (which hands out GPUs itself), stays as it is.
    """
    number = _number if number is None else number
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
