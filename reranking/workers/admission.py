"""The driver's side of meeting a worker: it is asked what it lacks, and is sent models."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any

from reranking.errors import RescoreError
from reranking.progress import NOTICE
from reranking.workers.crew import Worker, WorkerLost
from reranking.workers.parcels import Parcel, receive, unpack
from reranking.workers.presence import Asked, Lacks

log = logging.getLogger(__name__)

_LOOK = 0.5  # seconds between two looks whether the job is over


class Admission:
    """Asks workers, each once, whether they can do a job, and sends what they lack.

    That goes one after the other: the next worker may be on the machine of the one before.
    """

    def __init__(self, asked: Asked, ask: Callable[[Asked], str | Lacks | None]) -> None:
        self._asked, self._ask = asked, ask
        self._line = ThreadPoolExecutor(1, thread_name_prefix="sending")
        self._over = threading.Event()
        self._known: set[Worker] = set()  # that can do the job

    def __enter__(self) -> Admission:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._line.shutdown(cancel_futures=True)

    def __call__(self, worker: Worker) -> Future[str | None]:
        """Ask a worker whether it can do the job: None, or why not."""
        answer: Future[str | None] = Future()
        if worker in self._known:
            answer.set_result(None)
            return answer

        def heard(first: Future[str | Lacks | None]) -> None:
            try:
                found = first.result()
                if isinstance(found, Lacks):
                    self._line.submit(self._settle, worker, answer)
                else:
                    self._tell(worker, answer, found)
            except BaseException as error:
                answer.set_exception(error)

        worker.submit(self._ask, self._asked).add_done_callback(heard)
        return answer

    def _settle(self, worker: Worker, answer: Future[str | None]) -> None:
        try:
            self._tell(worker, answer, self._equipped(worker))
        except BaseException as error:
            answer.set_exception(error)

    def _tell(self, worker: Worker, answer: Future[str | None], fault: str | None) -> None:
        if fault is None:
            self._known.add(worker)
        answer.set_result(fault)

    def _equipped(self, worker: Worker) -> str | None:
        """What the worker says once it was sent what it lacks, if that is not there by now."""
        found = self._wait(worker, self._ask, self._asked)
        if isinstance(found, Lacks):
            for parcel in found.parcels:
                log.log(
                    NOTICE,
                    "sending model %s to %s, which keeps it in its cache: %d files, %.1f MB",
                    *(parcel.name, found.where, len(parcel.parts), parcel.size / 1e6),
                )
                if fault := self._send(worker, parcel):
                    return fault
            found = self._wait(worker, self._ask, self._asked)
        return found.why if isinstance(found, Lacks) else found

    def _send(self, worker: Worker, parcel: Parcel) -> str | None:
        sending = f"{parcel.digest[:8]}-{uuid.uuid4().hex}"
        try:
            for piece in parcel.pieces():
                fault: str | None = self._wait(worker, receive, parcel, sending, *piece)
                if fault is not None:
                    return fault
        except RescoreError as error:
            return f"the driver cannot read model {parcel.name}: {error}"
        fault = self._wait(worker, unpack, parcel, sending)
        return fault

    def _wait(self, worker: Worker, work: Callable[..., Any], *args: Any) -> Any:  # noqa: ANN401
        """What the worker answers; raises WorkerLost if the job is over before."""
        future = worker.submit(work, *args)
        while not wait([future], timeout=_LOOK).done:
            if self._over.is_set():
                raise WorkerLost("the job is over")
        return future.result()
