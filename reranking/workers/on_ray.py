"""Workers of a Ray cluster: actors, each with a GPU or a share of the CPUs.

Plain actors and not Ray Data's pool: what travels are chunk numbers, results are committed by the
worker, and a job of a few large pieces gains nothing from blocks and an object store. A task with
GPUs would get a new process, and load its model again, for every chunk.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import Any

from configs.schema import Config
from reranking.errors import MissingPrerequisite
from reranking.workers.crew import LOSSES, Worker, lacking_extra, relayed
from reranking.workers.devices import gpus_wanted
from reranking.workers.reach import need_answer

log = logging.getLogger(__name__)

_LOOPBACK = "127.0.0.1"
_OF_ONE_MACHINE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""0: Ray's processes listen on the loopback address alone, as by default on macOS and Windows."""
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_NUM_REDIS_GET_RETRIES": "6",  # a second each before an address is given up
}


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
        self._stillborn = 0  # actors that ended before they said where they are, in a row
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
                    self._stillborn = 0
                except ray.exceptions.RayError as error:
                    self._stillborn += 1
                    log.warning("worker %s could not begin: %s", name, _last_line(error))
                    if self._stillborn >= LOSSES:
                        raise _cannot_begin(error) from error
        return self._workers

    def close(self) -> None:
        import ray

        for worker in [*self._workers.values(), *(w for w, _ in self._waiting.values())]:
            ray.kill(worker.actor)


def _last_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()


def _cannot_begin(error: BaseException) -> MissingPrerequisite:
    lacking = "ModuleNotFoundError" in str(error) or "AttributeError" in str(error)
    why = "has another version of rescore, or none" if lacking else "ends its workers at once"
    return MissingPrerequisite(
        f"the Ray cluster {why}: {_last_line(error)}. Every node needs the driver's versions of "
        "rescore, Python and Ray"
    )


def _where() -> str:
    import socket

    return f"{socket.gethostname()} (process {os.getpid()})"


@contextmanager
def ray_workers(config: Config) -> Iterator[_RayCrew]:
    """Actors on the cluster at `execution.address`, or on one that is started here."""
    execution = config.execution
    with _set({**_QUIET, _OF_ONE_MACHINE: "0"} if execution.address is None else _QUIET):
        try:
            import ray
        except ImportError as error:
            raise lacking_extra("ray") from error
        with ExitStack() as stack:
            if not ray.is_initialized():
                _begin(execution.address, execution.most)
                stack.callback(ray.shutdown)
            yield stack.enter_context(_crew(config))


@contextmanager
def _crew(config: Config) -> Iterator[_RayCrew]:
    import ray

    execution = config.execution
    needs = {"num_cpus": 1, "num_gpus": gpus_wanted(config), "resources": execution.resources}
    slots = _slots(needs)
    if slots < execution.least:
        raise _too_small(execution.least, needs, ray.cluster_resources())
    count = slots if execution.workers is None and execution.address else execution.most
    if slots < count:
        log.warning("%d workers are wanted, the Ray cluster has room for %d now", count, slots)
    crew = _RayCrew(max(count, 1), execution.least, needs | {"max_restarts": 0})
    try:
        yield crew
    finally:
        crew.close()


@contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    """Have environment variables of Ray for as long as the block, unless they are set already."""
    new = {name: value for name, value in variables.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


def _begin(address: str | None, count: int) -> None:
    """Start Ray on this machine, or connect to the cluster at an address."""
    import ray

    if address is None:
        here = {"num_cpus": count, "include_dashboard": False, "_node_ip_address": _LOOPBACK}
        with _one_machine(), warnings.catch_warnings():
            # Ray executes another program at once: nothing of LanceDB runs in the fork.
            warnings.filterwarnings("ignore", "lancedb fork support", RuntimeWarning)
            ray.init("local", logging_level=logging.ERROR, **here)
        return
    need_answer(address, "Ray", "ray start --head")
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # ConnectionError, RuntimeError, gRPC's own
        raise MissingPrerequisite(_why_not(address, error)) from error


@contextmanager
def _one_machine() -> Iterator[None]:
    """Have Ray take the loopback address for its node's where it was imported before."""
    from ray._private import ray_constants

    before = getattr(ray_constants, "ENABLE_RAY_CLUSTER", False)
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _why_not(address: str, error: BaseException | None) -> str:
    first = " ".join(str(error).strip().splitlines()[:1])
    while error is not None:
        if "AuthToken" in str(error) or "AuthenticationError" in str(error):
            return (
                f"the Ray cluster at execution.address {address} asks for a token: set "
                "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH unless the token "
                "is in ~/.ray/auth_token. On a machine of the cluster execution.address=auto does"
            )
        error = error.__cause__ or error.__context__
    return (
        f"no Ray cluster at execution.address {address}: {first}. Start one with "
        "`ray start --head`, or leave the address out to start one here"
    )


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
