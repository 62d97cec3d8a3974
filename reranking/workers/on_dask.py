"""Workers of a Dask cluster: one piece of work at a time in each worker process."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import Any

from configs.schema import Config
from reranking.errors import MissingPrerequisite
from reranking.workers.crew import Worker, WorkerLost, lacking_extra
from reranking.workers.devices import gpus_wanted, place
from reranking.workers.reach import need_answer

log = logging.getLogger(__name__)

_TIMEOUT = 8  # seconds to reach a scheduler


class _DaskWorker:
    """One worker process; work that it takes with it is lost, not waited for."""

    def __init__(
        self,
        client: Any,
        address: str,
        number: int,
        resources: Mapping[str, float],  # noqa: ANN401
    ) -> None:
        self._client, self._address, self._number = client, address, number
        self._resources = dict(resources)
        self._pending: set[Future[Any]] = set()

    def submit(self, work: Callable[..., Any], /, *args: Any) -> Future[Any]:
        ours: Future[Any] = Future()
        theirs = self._client.submit(
            _unpacked,
            packed(_as_number, self._number, work, *args),
            pure=False,
            retries=0,
            workers=[self._address],
            allow_other_workers=False,
            resources=self._resources or None,
        )
        self._pending.add(ours)
        ours.theirs = theirs  # type: ignore[attr-defined]  # released with ours

        def hand_on(done: Any) -> None:  # noqa: ANN401
            self._pending.discard(ours)
            if ours.done():
                return
            try:
                ours.set_result(done.result())
            except BaseException as error:
                ours.set_exception(error)

        theirs.add_done_callback(hand_on)
        return ours

    def lose(self) -> None:
        """Give up what the worker had: its scheduler would wait for it to come back."""
        for future in list(self._pending):
            if not future.done():
                future.set_exception(WorkerLost(f"worker {self._address} is gone"))
            future.theirs.cancel()  # type: ignore[attr-defined]


def packed(work: Callable[..., Any], *args: Any) -> bytes:  # noqa: ANN401
    """Work as a scheduler passes it on: bytes, which only a worker has to understand."""
    from distributed.protocol.serialize import serialize_bytes

    return bytes(serialize_bytes((work, args)))


def _unpacked(payload: bytes) -> Any:  # noqa: ANN401
    """Do packed work."""
    from distributed.protocol.serialize import deserialize_bytes

    work, args = deserialize_bytes(payload)
    return work(*args)


# Shipped as code and not by its name: the scheduler, which reads the tasks too, has no rescore.
_unpacked.__module__ = "__main__"


def _as_number(number: int, work: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401
    """Do the work as worker `number` of its machine, which decides its GPU."""
    place.number = number
    return work(*args)


class _DaskCrew:
    waiting = 0  # who has no place is not told by the scheduler

    def __init__(self, client: Any, most: int | None, least: int, config: Config) -> None:  # noqa: ANN401
        self.client, self._most, self.least = client, most, least
        self._gpus, self._resources = gpus_wanted(config), config.execution.resources
        self._workers: dict[str, _DaskWorker] = {}

    def present(self) -> Mapping[str, Worker]:
        """The workers that offer what is asked for; GPUs are reserved where they are offered."""
        there = workers_of(self.client)
        for address in [a for a in self._workers if a not in there]:
            self._workers.pop(address).lose()
        taken = [(there[a]["host"], w._number) for a, w in self._workers.items()]
        for address, info in there.items():
            full = self._most is not None and len(self._workers) >= self._most
            offered = info.get("resources", {})
            if address in self._workers or full or not self._fits(offered):
                continue
            gpu = {"GPU": self._gpus} if self._gpus and offered.get("GPU", 0) >= self._gpus else {}
            used = {number for host, number in taken if host == info["host"]}
            number = next(n for n in range(len(used) + 1) if n not in used)
            taken.append((info["host"], number))
            asked = {**gpu, **self._resources}
            self._workers[address] = _DaskWorker(self.client, address, number, asked)
        return self._workers

    def _fits(self, offered: Mapping[str, float]) -> bool:
        return all(offered.get(name, 0) >= amount for name, amount in self._resources.items())

    def check(self) -> None:
        """Raise MissingPrerequisite if workers are there and too few offer what is asked for."""
        there = workers_of(self.client)
        fitting = sum(self._fits(info.get("resources", {})) for info in there.values())
        if 0 < fitting < self.least:
            raise MissingPrerequisite(
                f"execution.workers.min is {self.least} and the Dask cluster has {fitting} "
                f"worker(s) of use: start more with `dask worker`, or lower min (0 waits for them)"
            )
        if self._most is not None and 0 < fitting < self._most:
            log.warning("%d workers are wanted, the Dask cluster has %d now", self._most, fitting)
        if there and not fitting:
            asked = ", ".join(f"{name}={amount:g}" for name, amount in self._resources.items())
            offers = sorted({str(dict(info.get("resources", {}))) for info in there.values()})
            raise MissingPrerequisite(
                f"no Dask worker offers execution.resources {asked}: the {len(there)} that are "
                f"there offer {', '.join(offers)}. Start workers with `dask worker ADDRESS "
                f"--resources '{asked}'`, or change execution.resources"
            )


def workers_of(client: Any) -> dict[str, dict[str, Any]]:  # noqa: ANN401
    """Return what the scheduler knows of all its workers, by address."""
    limited = "n_workers" in inspect.signature(client.scheduler_info).parameters
    info = client.scheduler_info(**({"n_workers": -1} if limited else {}))
    workers: dict[str, dict[str, Any]] = dict(info["workers"])
    return workers


@contextmanager
def dask_workers(config: Config) -> Iterator[_DaskCrew]:
    """The workers of the scheduler at `execution.address`, or of one that is started here."""
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise lacking_extra("dask") from error
    execution = config.execution
    with ExitStack() as stack:
        if execution.address is None:
            here = {"n_workers": execution.most, "threads_per_worker": 1, "host": "127.0.0.1"}
            offered = {"GPU": gpus_wanted(config), **execution.resources}
            # Its own lines are about port numbers and about processes that end late.
            quiet = {"dashboard_address": "127.0.0.1:0", "silence_logs": logging.ERROR}
            cluster = stack.enter_context(LocalCluster(resources=offered, **here, **quiet))
        else:
            cluster = execution.address
            need_answer(cluster, "Dask", "dask scheduler")
        try:
            client = stack.enter_context(Client(cluster, timeout=_TIMEOUT))
        except (OSError, TimeoutError, ValueError) as error:
            raise MissingPrerequisite(
                f"no Dask scheduler at execution.address {cluster}: {error}. Start one with "
                "`dask scheduler` and `dask worker`, or leave the address out to start one here"
            ) from error
        most = None if execution.workers is None and execution.address else execution.most
        crew = _DaskCrew(client, most, execution.least, config)
        if execution.least:
            crew.check()
        yield crew
