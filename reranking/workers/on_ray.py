"""Workers of a Ray cluster: actors, each with a GPU or a share of the CPUs.

Plain actors and not Ray Data's pool: what travels are chunk numbers, results are committed by the
worker, and a job of a few large pieces gains nothing from blocks and an object store. A task with
GPUs would get a new process, and load its model again, for every chunk.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from configs.schema import Config
from reranking.errors import MissingPrerequisite
from reranking.workers.crew import Worker, lacking_extra, relayed
from reranking.workers.devices import gpus_wanted
from reranking.workers.reach import need_answer

_LOOPBACK = "127.0.0.1"


class _Actor:
    """A worker process on the cluster."""

    def call(self, work: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401
        return work(*args)


class _RayWorker:
    """One actor; `dead` once the cluster has said so."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        import ray

        self.actor = ray.remote(_Actor).options(**options).remote()
        self.dead = False

    def submit(self, work: Callable[..., Any], /, *args: Any) -> Future[Any]:
        return relayed(self.actor.call.remote(work, *args).future(), self._seen)

    def _seen(self, error: BaseException) -> BaseException:
        import ray

        self.dead = self.dead or isinstance(error, ray.exceptions.RayActorError)
        return getattr(error, "cause", None) or error


class _RayCrew:
    """As many actors as are wanted; one that died is replaced where there is room."""

    def __init__(self, count: int, least: int, options: Mapping[str, Any]) -> None:
        self.least, self._count, self._options = least, count, options
        self._made = 0
        self._workers: dict[str, _RayWorker] = {}
        self._waiting: dict[str, tuple[_RayWorker, Any]] = {}

    @property
    def waiting(self) -> int:
        """The actors that have no place yet."""
        return len(self._waiting)

    def present(self) -> Mapping[str, Worker]:
        """The actors that run; one that waits for a place is not there yet."""
        import ray

        for name, worker in list(self._workers.items()):
            if worker.dead:
                del self._workers[name]
        while len(self._workers) + len(self._waiting) < self._count:
            worker = _RayWorker(self._options)
            self._waiting[f"ray-{self._made}"] = worker, worker.actor.call.remote(_where)
            self._made += 1
        for name, (worker, answer) in list(self._waiting.items()):
            if ray.wait([answer], timeout=0)[0]:
                del self._waiting[name]
                try:
                    self._workers[f"{name} on {ray.get(answer)}"] = worker
                except ray.exceptions.RayError:
                    continue
        return self._workers

    def close(self) -> None:
        import ray

        for worker in [*self._workers.values(), *(w for w, _ in self._waiting.values())]:
            ray.kill(worker.actor)


def _where() -> str:
    import socket

    return f"{socket.gethostname()} (process {os.getpid()})"


@contextmanager
def ray_workers(config: Config) -> Iterator[_RayCrew]:
    """Actors on the cluster at `execution.address`, or on one that is started here."""
    try:
        import ray
    except ImportError as error:
        raise lacking_extra("ray") from error
    execution = config.execution
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    started = not ray.is_initialized()
    if started:
        _begin(execution.address, execution.most)
    try:
        needs = {"num_cpus": 1, "num_gpus": gpus_wanted(config), "resources": execution.resources}
        slots = _slots(needs)
        if execution.workers is None:
            count = slots if execution.address else 1
        else:
            count = execution.most
        crew = _RayCrew(max(count, 1), execution.least, needs | {"max_restarts": 0})
        if slots < execution.least:
            raise _too_small(execution.least, needs, ray.cluster_resources())
        try:
            yield crew
        finally:
            crew.close()
    finally:
        if started:
            ray.shutdown()


def _begin(address: str | None, count: int) -> None:
    import ray

    if address is None:
        here = {"num_cpus": count, "include_dashboard": False, "_node_ip_address": _LOOPBACK}
        ray.init("local", **here)
        return
    need_answer(address, "Ray", "ray start --head")
    try:
        ray.init(address, log_to_driver=False)
    except Exception as error:  # ConnectionError, RuntimeError, gRPC's own
        first = str(error).strip().splitlines()[:1]
        raise MissingPrerequisite(
            f"no Ray cluster at execution.address {address}: {' '.join(first)}. Start one with "
            "`ray start --head`, or leave the address out to start one here"
        ) from error


def _slots(needs: Mapping[str, Any]) -> int:
    """How many workers the cluster has room for, were it idle: node by node."""
    import ray

    asked = {"CPU": needs["num_cpus"], "GPU": needs["num_gpus"], **needs["resources"]}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return sum(
        min(int(node.get(name, 0) // amount) for name, amount in asked.items() if amount)
        for node in nodes
    )


def _too_small(
    least: int, needs: Mapping[str, Any], offered: Mapping[str, float]
) -> MissingPrerequisite:
    asked = {"CPU": needs["num_cpus"], "GPU": needs["num_gpus"], **needs["resources"]}
    worker = ", ".join(f"{amount} {name}" for name, amount in asked.items() if amount)
    has = ", ".join(f"{offered.get(name, 0):g} {name}" for name, amount in asked.items() if amount)
    return MissingPrerequisite(
        f"the Ray cluster has no room for {least} worker(s) of {worker} each: it has {has}. Set "
        "execution.gpus_per_worker (0: no GPU) or execution.resources to what its nodes offer, or "
        "execution.workers to {min: 0, max: N} to wait for a cluster that grows"
    )
