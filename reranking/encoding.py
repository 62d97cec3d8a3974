"""Encoding in many workers, if `execution` asks for them: they encode, the caller commits."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from configs.schema import Config
from reranking.corpus.ingest import Encoder
from reranking.errors import RescoreError
from reranking.scoring.encoder import SentenceEncoder
from reranking.workers import Workers, on_own_devices, open_workers

log = logging.getLogger(__name__)

Vectors = NDArray[np.float32]
_PER_WORKER = 2048  # texts handed over at once: seconds of work for a tenth of a second of overhead
_FEW = 512  # not worth starting workers for


@contextmanager
def encoding(config: Config, encoder: SentenceEncoder | None) -> Iterator[Encoder | None]:
    """Give the encoder: in this process, or spread over the configured workers."""
    if encoder is None or config.execution.workers == 1:
        yield encoder
        return
    with ExitStack() as stack:
        yield SpreadEncoder(config, encoder, stack)


def encode_texts(job: str, config: Config, texts: Sequence[str]) -> Vectors:
    """Make the (n, dimension) vectors of documents' texts in this worker.

    The encoder stays in the worker while the same job asks for it.
    """
    if getattr(_loaded, "job", None) != job:
        given = on_own_devices(config).documents.encoder
        assert given is not None
        _loaded.encoder, _loaded.job = SentenceEncoder(given), job
    encoder: SentenceEncoder = _loaded.encoder
    return encoder.encode_documents(texts)


_loaded = threading.local()


class SpreadEncoder:
    """Encodes in workers, which are started when there is enough to encode and end with `stack`."""

    def __init__(self, config: Config, encoder: SentenceEncoder, stack: ExitStack) -> None:
        self.config, self.encoder, self._stack = config, encoder, stack
        self._job = uuid.uuid4().hex
        self.fingerprint = encoder.fingerprint
        self.texts_at_once = _PER_WORKER * config.execution.workers
        self._workers: Workers | None = None

    @property
    def dimension(self) -> int:
        """Numbers per vector."""
        return self.encoder.dimension

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Make (n, dimension) vectors; what a dead worker should have encoded is encoded here."""
        if len(texts) <= _FEW:
            return self.encoder.encode_documents(texts)
        if self._workers is None:
            self._workers = self._stack.enter_context(open_workers(self.config))
        count = self.config.execution.workers
        parts = [list(texts[i::count]) for i in range(count)]  # each with long and short ones
        futures = [
            self._workers.submit(encode_texts, self._job, self.config, part) for part in parts
        ]
        made = [self._result(future, part) for future, part in zip(futures, parts, strict=True)]
        vectors = np.empty((len(texts), made[0].shape[1]), np.float32)
        for i, part in enumerate(made):
            vectors[i::count] = part
        return vectors

    def _result(self, future: Future[Any], part: list[str]) -> Vectors:
        try:
            vectors: Vectors = future.result()
        except RescoreError:
            raise
        except Exception as error:
            log.warning("%d texts were lost with their worker: %s", len(part), error)
            return self.encoder.encode_documents(part)
        return vectors
