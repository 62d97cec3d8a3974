"""Pair scores: (query text, document text) in, one raw float32 logit per pair out."""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ctypes.util import find_library
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from configs.schema import Rerank
from reranking.errors import ConfigError, MissingPrerequisite, RescoreError, RuntimeFailure
from reranking.models.chain import read_chain
from reranking.models.files import ModelFiles, read_model_files
from reranking.models.folder import half_type, resolve_max_length
from reranking.models.reranker import score_source

if TYPE_CHECKING:
    from reranking.scoring.engines import Engine, Job, Pairs
    from reranking.scoring.results import Result

logger = logging.getLogger(__name__)

_LEAST_TOKENS = 256  # smaller batches spend their time on overhead
PRECISIONS = ("float32", "bfloat16", "float16", "auto")


class Batch(NamedTuple):
    """Some pairs with their logits; `tokens` of each whole pair, before it is cut, if known."""

    positions: NDArray[np.int64]
    logits: NDArray[np.float32]
    tokens: NDArray[np.int64] | None = None


class Scorer(Protocol):
    """Scores pairs of distinct texts."""

    dtype: str
    path: str
    max_length: int

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        query_index: NDArray[np.int64],
        document_index: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """One raw logit per pair (queries[query_index[i]], documents[document_index[i]])."""

    def batches(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        query_index: NDArray[np.int64],
        document_index: NDArray[np.int64],
    ) -> Iterator[Batch]:
        """The same, batch by batch while they come, longest pairs first."""


def resolve_device(device: str | None) -> str:
    """The device named, or cuda if there is one, or cpu."""
    if device == "cpu":
        return device
    if device is None and surely_no_gpu():
        return "cpu"
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        named = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(
            f"unknown device {device!r}; give cpu, cuda, cuda:N, mps or xpu"
        ) from error
    if named.type == "cuda" and (named.index or 0) >= torch.cuda.device_count():
        raise MissingPrerequisite(
            f"device {device} is not there, torch sees {torch.cuda.device_count()} CUDA devices; "
            "set device to cpu, or install a torch build and driver for the GPU"
        )
    usable: dict[str, Callable[[], bool]] = {
        "mps": torch.backends.mps.is_available,
        "xpu": torch.xpu.is_available,
    }
    if named.type in usable and not usable[named.type]():
        raise MissingPrerequisite(
            f"device {device} is not there: torch sees no {named.type} device; set device to cpu, "
            f"or install a torch build with {named.type} support"
        )
    return device


@cache
def surely_no_gpu() -> bool:
    """Return whether torch cannot see a GPU here, told without importing it.

    True for a `+cpu` build, on macOS, and on Linux without any driver; False means: ask torch.
    """
    with suppress(PackageNotFoundError):
        if version("torch").endswith("+cpu"):
            return True
    if sys.platform == "darwin":
        return True
    if sys.platform != "linux":
        return False
    nodes = ("nvidia*", "nvhost*", "nvmap", "dxg", "kfd")  # Jetson, Windows' subsystem, ROCm too
    if any(True for pattern in nodes for _ in Path("/dev").glob(pattern)):
        return False
    return not Path("/proc/driver/nvidia").exists() and find_library("cuda") is None


def resolve_dtype(precision: str, device: str | None, files: ModelFiles | None = None) -> str:
    """float32, bfloat16 or float16; auto is the half type that suits the model on CUDA.

    It is float32 on every other device. The choice names the run, so it looks at the model's
    `files` alone and not at what the GPU is good at.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    # A device that is named need not be here: a cluster's workers have what its driver lacks.
    if not (device or resolve_device(None)).startswith("cuda"):
        return "float32"
    return "float16" if files is None else half_type(files)


class PairScorer:
    """A reranker on one device."""

    def __init__(
        self,
        engine: Engine,
        *,
        dtype: str,
        max_length: int,
        batch_tokens: int | None = None,
        stock: Callable[[], Engine] | None = None,
    ) -> None:
        """`stock` makes the engine that takes over where this one fails, if it is a fast path."""
        self.dtype = dtype
        self._stock = stock
        self.path = engine.path
        self.max_length = max_length
        self._failures: set[str] = set()  # each kind is warned of once
        self.batch_tokens = batch_tokens or engine.batch_tokens
        self._engine = engine
        # Threads that each run whole batches beat threads that share every operation.
        self._pool = (
            ThreadPoolExecutor(engine.workers, "scorer", initializer=engine.enter_worker)
            if engine.workers > 1
            else None
        )

    @classmethod
    def load(cls, folder: Path | ModelFiles, settings: Rerank) -> PairScorer:
        """The reranker in `folder`, checked against the stock model before it is used."""
        from reranking.scoring.generic import GenericEngine
        from reranking.scoring.load import load_engine

        if settings.device is not None and not isinstance(settings.device, str):
            raise ConfigError("several devices were given; load them with devices.load_scorer")
        files = read_model_files(folder)
        source = score_source(files, read_chain(files, settings.trust_remote_code), settings)
        device = resolve_device(settings.device)
        dtype = resolve_dtype(settings.precision, device, files)
        max_length = resolve_max_length(files, settings.max_length)
        model = (files, device, dtype, max_length, settings.trust_remote_code, source)
        engine = load_engine(*model)
        stock = None if isinstance(engine, GenericEngine) else partial(load_engine, *model, False)
        logger.info("scoring with %s in %s, %d tokens a pair", engine.path, dtype, max_length)
        tokens = settings.batch_tokens
        return cls(engine, dtype=dtype, max_length=max_length, batch_tokens=tokens, stock=stock)

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
        """The same, batch by batch while they come, longest pairs first.

        Where a fast path fails, whatever the error, the stock model scores the pairs that are left.
        Raises RuntimeFailure for a logit that is not finite, and if one pair does not fit.
        """
        from reranking.scoring.engines import Pairs

        if len(query_index) != len(document_index):
            raise ValueError(f"{len(query_index)} queries against {len(document_index)} documents")
        if not len(query_index):
            return
        left = np.ones(len(query_index), bool)
        try:
            for batch in self._batches(Pairs(queries, documents, query_index, document_index)):
                left[batch.positions] = False
                yield batch
            return
        except Exception as error:
            if isinstance(error, RescoreError) and not isinstance(error, _KernelFailure):
                raise
            self._fall_back(error)
        rest = np.flatnonzero(left)
        pairs = Pairs(queries, documents, query_index[rest], document_index[rest])
        for batch in self._batches(pairs):
            yield batch._replace(positions=rest[batch.positions])

    def _batches(self, pairs: Pairs) -> Iterator[Batch]:
        job = self._engine.prepare(pairs)
        for positions, logits in self._run(job):
            _check(pairs, positions, logits)
            yield Batch(positions, logits, None if job.tokens is None else job.tokens[positions])

    def _fall_back(self, error: Exception) -> None:
        """Take the stock model instead of the fast path; raises `error` if there is none."""
        if self._stock is None:
            raise error
        logger.warning(
            "the fast path %s failed: %s: %s; scoring with the stock model from here on",
            *(self.path, type(error).__name__, error),
        )
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._engine, self._stock, self._pool = self._stock(), None, None
        self.path = f"{self.path}, then {self._engine.path}"
        self.batch_tokens = min(self.batch_tokens, self._engine.batch_tokens)

    def _run(self, job: Job) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Batches in the order of their length, a few of them in flight."""
        lengths = job.lengths
        todo = _Todo(lengths)
        # Batches become smaller where some workers would otherwise have none.
        share = max(_LEAST_TOKENS, -(-int(lengths.sum()) // self._engine.workers))
        alone = self._pool is None and self._engine.device.type == "cpu"
        window = 1 if alone else 1 + self._engine.workers
        flying: deque[tuple[NDArray[np.int64], Result]] = deque()
        try:
            while todo or flying:
                while todo and len(flying) < window:
                    positions = todo.take(min(self.batch_tokens, share))
                    flying.append((positions, self._start(job, positions, bool(todo or flying))))
                positions, result = flying.popleft()
                outcome = result()
                if isinstance(outcome, str):
                    self._halve(lengths[positions], outcome)
                    todo.put_back(positions)
                else:
                    yield positions, outcome
        finally:
            for _, result in flying:
                result.cancel()

    def _start(self, job: Job, positions: NDArray[np.int64], others: bool) -> Result:
        """The batch on its way: on a worker, or here if it is the only one."""
        from reranking.scoring.results import PooledResult, attempt

        if self._pool is not None and others:
            return PooledResult(self._pool.submit(attempt, job, positions))
        return attempt(job, positions)

    def _halve(self, lengths: NDArray[np.int64], reason: str) -> None:
        """Remember half the budget, which `lengths` (tokens of a batch's pairs) was too much."""
        if len(lengths) == 1:
            from reranking.scoring.results import OUT_OF_MEMORY

            raise (RuntimeFailure if reason == OUT_OF_MEMORY else _KernelFailure)(
                f"{reason} on {self._engine.device} with a single pair of {lengths[0]} "
                "tokens; set a smaller max_length or another device"
            )
        tokens = int(lengths.max()) * len(lengths)
        # Of the failed batch: others of its size may be in flight and must not halve it again.
        self.batch_tokens = min(self.batch_tokens, tokens // 2)
        level = logging.INFO if reason in self._failures else logging.WARNING
        self._failures.add(reason)
        logger.log(
            level,
            "%s on %s: batches have at most %d tokens from here on",
            reason,
            self._engine.device,
            self.batch_tokens,
        )


class _KernelFailure(RuntimeFailure):
    """A kernel that fails for a single pair, on a device that still computes."""


class _Todo:
    """Pairs still to be scored, longest first; those put back come next."""

    def __init__(self, lengths: NDArray[np.int64]) -> None:
        self._lengths = lengths
        self._parts = [np.argsort(-lengths, kind="stable")]

    def __bool__(self) -> bool:
        return bool(self._parts)

    def take(self, budget: int) -> NDArray[np.int64]:
        """The next pairs, at least one, whose tokens padded to the longest are within `budget`."""
        part = self._parts.pop()
        count = max(1, budget // int(self._lengths[part[0]]))
        if count < len(part):
            self._parts.append(part[count:])
        return part[:count]

    def put_back(self, positions: NDArray[np.int64]) -> None:
        self._parts.append(positions)


def _check(pairs: Pairs, positions: NDArray[np.int64], logits: NDArray[np.float32]) -> None:
    bad = np.flatnonzero(~np.isfinite(logits))
    if len(bad):
        at = positions[bad[0]]
        raise RuntimeFailure(
            f"the model gave {logits[bad[0]]} for {len(bad)} of {len(logits)} pairs, first for "
            f"query {_short(pairs.queries[pairs.query_index[at]])} and document "
            f"{_short(pairs.documents[pairs.document_index[at]])}; "
            "with half precision try float32, otherwise the model's weights are broken"
        )


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
