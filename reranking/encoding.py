"""Encoding in many workers, if `execution` asks for them: they encode, the caller commits."""

from __future__ import annotations

import logging
import threading
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
from numpy.typing import NDArray

from configs.schema import Config
from reranking.corpus.ingest import Encoder
from reranking.scoring.encoder import SentenceEncoder
from reranking.workers.admission import Admission
from reranking.workers.crew import Crew, hand_out, open_crew
from reranking.workers.devices import place
from reranking.workers.presence import Asked, fault_of_worker, own_config, what_is_asked

log = logging.getLogger(__name__)

Vectors = NDArray[np.float32]
_PER_WORKER = 2048  # texts handed over at once: seconds of work for a tenth of a second of overhead
_FEW = 512  # not worth starting workers for


@contextmanager
def encoding(config: Config, encoder: SentenceEncoder | None) -> Iterator[Encoder | None]:
    """Give the encoder: in this process, or spread over the configured workers."""
    if encoder is None or config.execution.alone:
        yield encoder
        return
    with ExitStack() as stack:
        yield SpreadEncoder(config, encoder, stack)


def encode_texts(job: str, asked: Asked, texts: Sequence[str]) -> Vectors:
    """Make the (n, dimension) vectors of documents' texts in this worker.

    The encoder stays in the worker while the same job asks for it.
    """
    number = getattr(place, "number", None)
    with _turns[number]:
        held = _held.get(number)
        if held is None or held[0] != job:
            given = own_config(asked).documents.encoder
            assert given is not None
            held = _held[number] = job, SentenceEncoder(given)
        return held[1].encode_documents(texts)


_held: dict[int | None, tuple[str, SentenceEncoder]] = {}
_turns: defaultdict[int | None, threading.Lock] = defaultdict(threading.Lock)


class SpreadEncoder:
    """Encodes in workers, which are started when there is enough to encode and end with `stack`."""

    def __init__(self, config: Config, encoder: SentenceEncoder, stack: ExitStack) -> None:
        self.config, self.encoder, self._stack = config, encoder, stack
        self._job = uuid.uuid4().hex
        self.fingerprint = encoder.fingerprint
        self._crew: Crew | None = None

    @property
    def _workers(self) -> int:
        """The workers to expect: a cluster's are counted once it is connected to."""
        crew, least = self._crew, self.config.execution.most
        return least if crew is None else max(least, len(crew.present()) + crew.waiting)

    @property
    def texts_at_once(self) -> int:
        """The texts that are worth handing over at once."""
        return _PER_WORKER * self._workers

    @property
    def dimension(self) -> int:
        """Numbers per vector."""
        return self.encoder.dimension

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Make (n, dimension) vectors; what a dead worker should have encoded is encoded here."""
        if len(texts) <= _FEW:
            return self.encoder.encode_documents(texts)
        if self._crew is None:
            self._crew = self._stack.enter_context(open_crew(self.config))
            folders = [self.encoder.folder]
            self._asked = what_is_asked(self.config, encoder=self.fingerprint, folders=folders)
            self._admission = self._stack.enter_context(Admission(self._asked, fault_of_worker))
        count = self._workers
        parts = [list(texts[i::count]) for i in range(count)]  # each with long and short ones
        tally = hand_out(
            self._crew,
            range(count),
            lambda worker, i, _: worker.submit(encode_texts, self._job, self._asked, parts[i]),
            admit=self._admission,
        )
        made = [
            self._made(i, tally.results.get(i), tally.deadly.get(i), part)
            for i, part in enumerate(parts)
        ]
        vectors = np.empty((len(texts), made[0].shape[1]), np.float32)
        for i, rows in enumerate(made):
            vectors[i::count] = rows
        return vectors

    def _made(
        self, part: int, vectors: Vectors | None, fault: BaseException | None, texts: list[str]
    ) -> Vectors:
        """A part's vectors; of a part that took worker after worker, made here."""
        if vectors is not None:
            return vectors
        log.warning("part %d, %d texts, was lost with its workers: %s", part, len(texts), fault)
        return self.encoder.encode_documents(texts)
