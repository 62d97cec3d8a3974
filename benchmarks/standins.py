"""Models that cost nothing: what is left of a job's time and memory is the job's own."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any
from zlib import crc32

import numpy as np

from benchmarks.texts import WIDTH
from configs.schema import Config
from reranking.pipeline import Pipeline
from reranking.steps import Executor

_TOPICS, _SHADES = 4096, 8192
BATCH = 2048  # pairs that the scorer gives at once


class StandInEncoder:
    """Unit vectors that a text's checksum names: of one of 4,096 topics, in 8,192 shades."""

    fingerprint = "5ca1e000000000000000000000000000"
    former_fingerprint = None
    dimension = WIDTH

    def __init__(self) -> None:
        self.topics, self.shades = _directions(_TOPICS, 2), _directions(_SHADES, 3)
        self.seconds = 0.0

    def encode_documents(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of documents."""
        began = time.perf_counter()
        sums = np.array([crc32(t.encode()) for t in texts], np.uint32)
        vectors = self.topics[sums % _TOPICS] + 0.7 * self.shades[(sums >> 12) % _SHADES]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        self.seconds += time.perf_counter() - began
        return np.asarray(vectors, np.float32)

    encode_queries = encode_documents


@cache
def _directions(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)


class StandInScorer:
    """Gives any logit, so many pairs a second; `seconds` is how long it was at it."""

    dtype, path, max_length = "float32", "stand-in", 512

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.seconds, self.pairs = 0.0, 0

    def score(self, queries: Any, documents: Any, q: np.ndarray, d: np.ndarray) -> np.ndarray:
        """Logits that the positions name, the same for the same texts."""
        asked = [crc32(t.encode()) for t in queries]
        given = [crc32(t.encode()) for t in documents]
        sums = np.array(asked, np.uint32)[q] ^ np.array(given, np.uint32)[d]
        return (sums / 2**29 - 4).astype(np.float32)

    def batches(self, queries: Any, documents: Any, q: Any, d: Any) -> Iterator[tuple[Any, Any]]:
        """All pairs, BATCH at a time."""
        logits = self.score(queries, documents, q, d)
        began, given = time.perf_counter(), 0
        for start in range(0, len(q), BATCH):
            at = np.arange(start, min(start + BATCH, len(q)))
            given += len(at)
            time.sleep(max(0.0, began + given / self.rate - time.perf_counter()))
            yield at, logits[at]
        self.seconds += time.perf_counter() - began
        self.pairs += given


class StandInReranker:
    """What a pipeline knows of a reranker."""

    name, revision, dtype, activation = "stand-in", None, "float32", "identity"
    max_length = 512

    def __init__(self, rate: float, number: int = 0) -> None:
        self.fingerprint = b"stand-in reranke" if not number else b"%016d" % number
        self.scorer = StandInScorer(rate)

    def load(self) -> StandInScorer:
        """The scorer."""
        return self.scorer

    def is_unchanged(self) -> bool:
        """Always."""
        return True


class StandInPipeline(Pipeline):
    """A config's job with models that cost nothing; `rate` pairs a second are scored."""

    def __init__(self, config: Config, executor: Executor | None, rate: float) -> None:
        super().__init__(config, executor)
        self.configured_encoder = StandInEncoder()  # type: ignore[assignment]
        self.reranker = StandInReranker(rate)  # type: ignore[assignment]
        self.refiner = None
