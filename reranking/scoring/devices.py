"""Several devices: one process each, with its share of the pairs."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.schema import Rerank
from reranking import errors
from reranking.errors import ConfigError, RescoreError, RuntimeFailure
from reranking.models.files import ModelFiles, read_model_files
from reranking.scoring.scorer import Batch, PairScorer, Scorer, resolve_dtype

_CALLS = 100  # of a process, before a fresh one takes over: no leak grows for longer

Message = tuple[str, int, Any]  # kind, request, payload


def load_scorer(folder: Path | ModelFiles, settings: Rerank) -> Scorer:
    """A scorer on the device, or on all of the devices, that `settings` names."""
    device = settings.device
    if device is None or isinstance(device, str):
        return PairScorer.load(folder, settings)
    if len(device) == 0:
        raise ConfigError("device is an empty list; name at least one device, or leave it out")
    if len(device) == 1:
        return PairScorer.load(folder, settings.model_copy(update={"device": device[0]}))
    return MultiScorer(folder, settings)


@dataclass(frozen=True)
class _Worker:
    device: str
    process: BaseProcess
    connection: Connection


class MultiScorer:
    """A reranker on several devices; each process loads the model from the folder by itself."""

    def __init__(self, folder: Path | ModelFiles, settings: Rerank) -> None:
        devices = list(settings.device or ())
        dtype = resolve_dtype(settings.precision, devices[0], read_model_files(folder))
        threads = max(1, (os.cpu_count() or 1) // max(1, devices.count("cpu")))
        self._folder, self._threads = folder, threads
        self._settings = [
            settings.model_copy(update={"precision": dtype, "device": d}) for d in devices
        ]
        self.dtype = dtype
        self._begin()

    def _begin(self) -> None:
        """Start fresh processes; returns when all of them have loaded the model."""
        self._request = 0
        self._workers = [_start(self._folder, s, self._threads) for s in self._settings]
        try:
            ready = [self._receive(worker)[2] for worker in self._workers]
        except RescoreError:
            self.close()
            raise
        self.max_length: int = ready[0][1]
        self.path = " + ".join(path for path, _ in ready)

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.connection.close()
            worker.process.terminate()
            worker.process.join(10)

    def __enter__(self) -> MultiScorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        query_index: NDArray[np.int64],
        document_index: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """One raw logit per pair (queries[query_index[i]], documents[document_index[i]])."""
        scores = np.full(len(query_index), np.nan, np.float32)
        for batch in self.batches(queries, documents, query_index, document_index):
            scores[batch.positions] = batch.logits
        return scores

    def batches(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        query_index: NDArray[np.int64],
        document_index: NDArray[np.int64],
    ) -> Iterator[Batch]:
        """The same, batch by batch as the devices deliver them.

        Raises RuntimeFailure, naming the device, if a process ends.
        """
        if self._request == _CALLS:
            self.close()
            self._begin()
        self._request += 1
        shares = _shares(queries, documents, query_index, document_index, len(self._workers))
        busy: dict[Connection, tuple[_Worker, NDArray[np.int64]]] = {}
        for worker, positions in zip(self._workers, shares, strict=True):
            if len(positions):
                pairs = _subset(
                    queries, documents, query_index[positions], document_index[positions]
                )
                self._send(worker, (self._request, pairs))
                busy[worker.connection] = (worker, positions)
        while busy:
            for connection in wait(list(busy)):
                worker, positions = busy[connection]  # type: ignore[index]
                kind, request, payload = self._receive(worker)
                if request != self._request:
                    continue  # of a call that was given up half-way
                if kind == "done":
                    del busy[worker.connection]
                else:
                    yield Batch(positions[payload[0]], *payload[1:])

    def _send(self, worker: _Worker, message: object) -> None:
        try:
            worker.connection.send(message)
        except (BrokenPipeError, ConnectionError) as error:
            raise _died(worker) from error

    def _receive(self, worker: _Worker) -> Message:
        try:
            message: Message = worker.connection.recv()
        except (EOFError, ConnectionError) as error:
            raise _died(worker) from error
        kind, request, payload = message
        if kind == "error" and request in (0, self._request):
            name, text = payload
            known = getattr(errors, name, RuntimeFailure)
            raise known(f"on device {worker.device}: {text}")
        return message


def _died(worker: _Worker) -> RuntimeFailure:
    worker.process.join(10)
    return RuntimeFailure(
        f"the process for device {worker.device} ended (exit code {worker.process.exitcode}); "
        "a negative code is a signal, -9 usually means that memory ran out"
    )


def _shares(
    queries: Sequence[str],
    documents: Sequence[str],
    query_index: NDArray[np.int64],
    document_index: NDArray[np.int64],
    count: int,
) -> list[NDArray[np.int64]]:
    """Positions of pairs per device: about equally many characters, a document on one device."""
    sizes = [np.array([len(t) for t in texts], np.int64) for texts in (queries, documents)]
    order = np.argsort(document_index, kind="stable")
    weights = 16 + sizes[0][query_index[order]] + sizes[1][document_index[order]]
    done = np.cumsum(weights)
    total = int(done[-1]) if len(done) else 0
    cuts = np.searchsorted(done, [total * k / count for k in range(1, count)])
    return [np.sort(part) for part in np.split(order, cuts)]


def _subset(
    queries: Sequence[str],
    documents: Sequence[str],
    query_index: NDArray[np.int64],
    document_index: NDArray[np.int64],
) -> tuple[list[str], list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Only the texts that the pairs use, with the indices that fit them."""
    used_q, new_q = np.unique(query_index, return_inverse=True)
    used_d, new_d = np.unique(document_index, return_inverse=True)
    return [queries[i] for i in used_q], [documents[i] for i in used_d], new_q, new_d


def _start(folder: Path | ModelFiles, settings: Rerank, threads: int) -> _Worker:
    # spawn, because CUDA and the tokenizers' threads do not survive a fork
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    device = str(settings.device)
    process = context.Process(
        target=_serve, args=(theirs, folder, settings, threads), name=device, daemon=True
    )
    process.start()
    theirs.close()  # else the end of the process would not be seen on our side
    return _Worker(device, process, ours)


def _serve(
    connection: Connection, folder: Path | ModelFiles, settings: Rerank, threads: int
) -> None:
    """A worker's life: load, then answer requests until the pipe closes."""
    request = 0
    try:
        scorer = _load(folder, settings, threads)
        connection.send(("ready", 0, (scorer.path, scorer.max_length)))
        while True:
            request, pairs = connection.recv()
            _answer(connection, scorer, request, pairs)
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:  # whatever it is, the other side must hear of it
        connection.send(("error", request, (type(error).__name__, str(error))))


def _load(folder: Path | ModelFiles, settings: Rerank, threads: int) -> PairScorer:
    import torch

    if settings.device == "cpu":
        torch.set_num_threads(min(threads, torch.get_num_threads()))
    return PairScorer.load(folder, settings)


def _answer(connection: Connection, scorer: PairScorer, request: int, pairs: Any) -> None:  # noqa: ANN401
    try:
        for batch in scorer.batches(*pairs):
            connection.send(("batch", request, tuple(batch)))
        connection.send(("done", request, None))
    except RescoreError as error:
        connection.send(("error", request, (type(error).__name__, str(error))))
