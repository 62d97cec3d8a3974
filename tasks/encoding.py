"""Encoding in many workers, where `execution` asks for them: they encode, the caller commits."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture

from configs.schema import Config
from reranking.corpus.ingest import Encoder
from reranking.errors import RescoreError
from reranking.scoring.encoder import SentenceEncoder
from tasks.runners import Runner, on_own_devices, runner_of
from tasks.settings import encoder_of

log = logging.getLogger(__name__)

Vectors = NDArray[np.float32]
_PER_WORKER = 2048  # texts handed over at once: seconds of work for a tenth of a second of overhead
_FEW = 512  # not worth starting workers for


@contextmanager
def encoding(config: Config) -> Iterator[Encoder | None]:
    """The configured encoder: in this process, or spread over the configured workers."""
    encoder = encoder_of(config)
    if encoder is None or config.execution.workers == 1:
        yield encoder
        return
    with ExitStack() as stack:
        yield SpreadEncoder(config, encoder, stack)


@task(name="encode-texts", cache_policy=NO_CACHE)
def encode_texts(config: Config, texts: Sequence[str]) -> Vectors:
    """The (n, dimension) vectors of documents' texts, made in this worker."""
    encoder = encoder_of(on_own_devices(config))
    assert encoder is not None
    return encoder.encode_documents(texts)


class SpreadEncoder:
    """Encodes in workers, which are started when there is enough to encode and end with `stack`."""

    def __init__(self, config: Config, encoder: SentenceEncoder, stack: ExitStack) -> None:
        self.config, self.encoder, self._stack = config, encoder, stack
        self.fingerprint = encoder.fingerprint
        self.texts_at_once = _PER_WORKER * config.execution.workers
        self._runner: Runner | None = None

    @property
    def dimension(self) -> int:
        """Numbers per vector."""
        return self.encoder.dimension

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """(n, dimension) vectors; what a worker that died should have encoded is encoded here."""
        if len(texts) <= _FEW:
            return self.encoder.encode_documents(texts)
        if self._runner is None:
            self._runner = self._stack.enter_context(runner_of(self.config))
        count = self.config.execution.workers
        parts = [list(texts[i::count]) for i in range(count)]  # each with long and short ones
        futures = [
            self._runner.submit(encode_texts, {"config": self.config, "texts": part})
            for part in parts
        ]
        found = [self._result(future, part) for future, part in zip(futures, parts, strict=True)]
        vectors = np.empty((len(texts), found[0].shape[1]), np.float32)
        for i, part in enumerate(found):
            vectors[i::count] = part
        return vectors

    def _result(self, future: PrefectFuture[Any], part: list[str]) -> Vectors:
        try:
            vectors: Vectors = future.result()
        except RescoreError:
            raise
        except Exception as error:
            log.warning("%d texts were lost with their worker: %s", len(part), error)
            return self.encoder.encode_documents(part)
        return vectors
