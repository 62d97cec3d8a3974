"""A reranker that a server has: pairs go there as texts, scores come back as they are.

What names its scores is the dialect, the model's name and the config's `version`. The address does
not: a server may move. Whether the model behind the name is still the same, only its scores tell:
some stored ones are asked for again whenever a run starts to score.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from configs.schema import Rerank
from configs.served import RerankApi
from reranking.errors import ConfigError, MissingPrerequisite, RuntimeFailure
from reranking.scoring.dialects import DIALECTS, Answer, read_answer
from reranking.scoring.scorer import Batch
from reranking.scoring.wire import Wire

logger = logging.getLogger(__name__)

DTYPE = "served"  # a server's own business
_SCORE_VERSION = 1  # bumped by hand when our requests change so that scores do
_PROBE = ("What falls from clouds?", "Rain falls from clouds.")


@dataclass(frozen=True)
class ServedModel:
    """The reranker of `rerank.api`, with what names its scores. Nothing is sent to make one."""

    settings: Rerank
    dtype = DTYPE
    max_length = None  # the server cuts, and does not say so

    @property
    def api(self) -> RerankApi:
        """The server."""
        if self.settings.api is None:
            raise ValueError("rerank.api is not set")
        return self.settings.api

    @property
    def name(self) -> str:
        """The model's name on the server."""
        return self.api.model

    @property
    def revision(self) -> str | None:
        """The version that the config gives it."""
        return self.api.version

    @cached_property
    def fingerprint(self) -> bytes:
        """16 bytes that name its scores."""
        parts = {
            "kind": "served reranker",
            "score_version": _SCORE_VERSION,
            "dialect": self.api.dialect,
            "model": self.api.model,
            "version": self.api.version,
        }
        return blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).digest()

    @property
    def activation(self) -> str:
        """Scores are published as they come unless the config sets an activation."""
        return self.settings.activation or "identity"

    def is_unchanged(self) -> bool:
        """Nothing here could have changed."""
        return True

    def load(self) -> ServedScorer:
        """A scorer that asks the server; raises if its key is missing or it has another model."""
        wire = Wire(self.api, key_of(self.api))
        wire.check_model()
        return ServedScorer(self.api, wire)

    def probe(self) -> str:
        """Have one built-in pair scored; what the server is and answered, in words."""
        query, document = _PROBE
        at = np.zeros(1, np.int64)
        score = float(self.load().score([query], [document], at, at)[0])
        return (
            f"{self.api.url} answers as {self.name} ({self.api.dialect}): one built-in pair was "
            f"sent, its score is {score:.4g}"
        )


def key_of(api: RerankApi) -> str | None:
    """The server's key, from the environment variable that the config names; None if it names none.

    Raises MissingPrerequisite where the variable is not set, or holds what no header can carry.
    """
    if api.key_env is None:
        return None
    key = os.environ.get(api.key_env, "").strip()
    if not key:
        raise MissingPrerequisite(
            f"the environment variable {api.key_env} is not set: rerank.api.key_env names it as "
            f"that of the key for {urlsplit(api.url).hostname}; export it, or leave out key_env"
        )
    if not (key.isascii() and key.isprintable()):
        raise MissingPrerequisite(
            f"the environment variable {api.key_env} holds no key: a key is of printable ASCII "
            "characters in one line"
        )
    return key


class ServedScorer:
    """Asks a server for the scores of pairs, several requests at a time."""

    dtype = DTYPE
    max_length = 0

    def __init__(self, api: RerankApi, wire: Wire) -> None:
        self._api, self._wire = api, wire
        self._dialect = DIALECTS[api.dialect]
        self._batch = api.batch or self._dialect.batch
        self.path = f"served-{api.dialect}/{urlsplit(api.url).netloc}"

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        query_index: NDArray[np.int64],
        document_index: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """One score per pair, as the server gives it."""
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
        """The same, request by request as they are answered.

        Raises what is wrong with an answer once all that was answered until then is given.
        """
        todo = deque(requests(query_index, self._batch, self._dialect.one_query))
        flying: dict[Future[Answer], NDArray[np.int64]] = {}
        fault: Exception | None = None
        stop = threading.Event()
        pool = ThreadPoolExecutor(self._api.concurrency, thread_name_prefix="served")

        def ask(positions: NDArray[np.int64]) -> Answer:
            asked = [queries[i] for i in query_index[positions]]
            body = self._dialect.body(
                self._api.model, asked, [documents[i] for i in document_index[positions]]
            )
            said = self._wire.post(body, stop)
            return read_answer(self._api.dialect, said, len(positions))

        try:
            while flying or (todo and fault is None):
                while todo and fault is None and len(flying) < self._api.concurrency:
                    positions = todo.popleft()
                    flying[pool.submit(ask, positions)] = positions
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    positions = flying.pop(future)
                    error = future.exception()
                    if error is not None:
                        if not isinstance(error, Exception):
                            raise error
                        fault = fault or error
                        stop.set()  # requests that wait for another try are given up
                        continue
                    answer = future.result()
                    if answer.fault is not None:
                        fault = fault or self._wrong(answer)
                    if answer.scores:
                        places = np.array(list(answer.scores), np.int64)
                        values = np.array(list(answer.scores.values()), np.float32)
                        yield Batch(positions[places], values)
            if fault is not None:
                raise fault
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _wrong(self, answer: Answer) -> Exception:
        said = f"the server at {self._api.url} answered {answer.fault}"
        if answer.foreign:
            return ConfigError(f"{said}: set rerank.api.dialect and url to what the server speaks")
        return RuntimeFailure(
            f"{said}: what was answered is kept; look at the server, then start the command again"
        )


def requests(
    query_index: NDArray[np.int64], batch: int, one_query: bool
) -> Iterator[NDArray[np.int64]]:
    """Positions of the pairs of each request, at most `batch`; of one query, if `one_query`."""
    if not one_query:
        groups = [np.arange(len(query_index))] if len(query_index) else []
    else:
        order = np.argsort(query_index, kind="stable")
        ends = np.flatnonzero(np.diff(query_index[order])) + 1
        groups = np.split(order, ends) if len(order) else []
    for group in groups:
        yield from (group[i : i + batch] for i in range(0, len(group), batch))


def count_requests(api: RerankApi, query_index: NDArray[np.int64]) -> int:
    """How many requests the pairs of these queries make."""
    dialect = DIALECTS[api.dialect]
    return sum(1 for _ in requests(query_index, api.batch or dialect.batch, dialect.one_query))
