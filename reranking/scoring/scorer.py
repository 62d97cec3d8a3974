"""Pair scores: (query text, document text) in, one raw float32 logit per pair out."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reranking.errors import ConfigError, MissingPrerequisite, RuntimeFailure
from reranking.models.folder import check_one_label, resolve_max_length

if TYPE_CHECKING:
    import torch

    from reranking.scoring.engines import Engine, Job, Pairs

logger = logging.getLogger(__name__)

PRECISIONS = ("float32", "bfloat16", "float16", "auto")

Batch = tuple[NDArray[np.int64], NDArray[np.float32]]


@dataclass(frozen=True)
class ScorerSettings:
    """How a reranker is run; only `max_length` and `precision` change scores."""

    max_length: int | None = None  # None: the model's own limit
    precision: str = "auto"
    device: str | Sequence[str] | None = None  # None: cuda if there is one, else cpu
    batch_tokens: int | None = None  # None: what suits the device
    trust_remote_code: bool = False


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
        """The same, as (positions of pairs, their logits) while they come, longest pairs first."""


def resolve_device(device: str | None) -> str:
    """The device named, or cuda if there is one, or cpu."""
    if device == "cpu":
        return device
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ConfigError(f"unknown device {device!r}; give cpu, cuda or cuda:N") from error
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise MissingPrerequisite(
            f"device {device} is not there, torch sees {torch.cuda.device_count()} CUDA devices; "
            "set device to cpu, or install a torch build and driver for the GPU"
        )
    return device


def resolve_dtype(precision: str, device: str | None) -> str:
    """float32, bfloat16 or float16; auto is float32 on CPU and half on CUDA."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
    if precision != "auto":
        return precision
    found = resolve_device(device)
    if not found.startswith("cuda"):
        return "float32"
    import torch

    with torch.cuda.device(found):
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"


class PairScorer:
    """A reranker on one device."""

    def __init__(
        self, engine: Engine, *, dtype: str, max_length: int, batch_tokens: int | None = None
    ) -> None:
        self.dtype = dtype
        self.path = engine.path
        self.max_length = max_length
        self.batch_tokens = batch_tokens or engine.batch_tokens
        self._engine = engine

    @classmethod
    def load(cls, folder: Path, settings: ScorerSettings) -> PairScorer:
        """The reranker in `folder`, checked against the stock model before it is used."""
        from reranking.scoring.load import load_engine

        if settings.device is not None and not isinstance(settings.device, str):
            raise ConfigError("several devices were given; load them with devices.load_scorer")
        if fault := check_one_label(folder):
            raise ConfigError(fault)
        device = resolve_device(settings.device)
        dtype = resolve_dtype(settings.precision, device)
        max_length = resolve_max_length(folder, settings.max_length)
        engine = load_engine(folder, device, dtype, max_length, settings.trust_remote_code)
        logger.info("scoring with %s in %s, %d tokens a pair", engine.path, dtype, max_length)
        return cls(engine, dtype=dtype, max_length=max_length, batch_tokens=settings.batch_tokens)

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        query_index: NDArray[np.int64],
        document_index: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """One raw logit per pair (queries[query_index[i]], documents[document_index[i]])."""
        scores = np.full(len(query_index), np.nan, np.float32)
        for positions, logits in self.batches(queries, documents, query_index, document_index):
            scores[positions] = logits
        return scores

    def batches(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        query_index: NDArray[np.int64],
        document_index: NDArray[np.int64],
    ) -> Iterator[Batch]:
        """The same, as (positions of pairs, their logits) while they come, longest pairs first.

        Raises RuntimeFailure for a logit that is not finite, and where one pair does not fit.
        """
        from reranking.scoring.engines import Pairs

        if len(query_index) != len(document_index):
            raise ValueError(f"{len(query_index)} queries against {len(document_index)} documents")
        if not len(query_index):
            return
        pairs = Pairs(queries, documents, query_index, document_index)
        # One batch in flight on a device that works on its own, so that it never waits for us.
        depth = 1 if self._engine.device.type == "cuda" else 0
        flying: deque[tuple[NDArray[np.int64], _Result]] = deque()
        for positions, result in self._run(self._engine.prepare(pairs)):
            flying.append((positions, result))
            if len(flying) > depth:
                yield _checked(pairs, *flying.popleft())
        while flying:
            yield _checked(pairs, *flying.popleft())

    def _run(self, job: Job) -> Iterator[tuple[NDArray[np.int64], _Result]]:
        """Each batch's result as soon as it is started."""
        lengths = job.lengths
        order = np.argsort(-lengths, kind="stable")
        start = 0
        while start < len(order):
            count = max(1, self.batch_tokens // int(lengths[order[start]]))
            positions = order[start : start + count]
            result = self._attempt(job, positions)
            if result is None:
                self._halve(len(positions), int(lengths[order[start]]))
                continue
            yield positions, result
            start += len(positions)

    def _attempt(self, job: Job, positions: NDArray[np.int64]) -> _Result | None:
        """The batch's result, or None if memory did not suffice."""
        import torch

        try:
            with torch.inference_mode():
                return _Result(job.run(positions))
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
        return None

    def _halve(self, pairs: int, tokens: int) -> None:
        """Remember half the budget; called outside the except block, which would hold memory."""
        import torch

        if pairs == 1:
            raise RuntimeFailure(
                f"out of memory on {self._engine.device} with a single pair of {tokens} tokens; "
                "set a smaller max_length or another device"
            )
        if self._engine.device.type == "cuda":
            torch.cuda.empty_cache()
        self.batch_tokens = max(1, min(self.batch_tokens, pairs * tokens) // 2)
        logger.warning(
            "out of memory on %s: batches have at most %d tokens from here on",
            self._engine.device,
            self.batch_tokens,
        )


class _Result:
    """Logits on their way to the host."""

    def __init__(self, logits: torch.Tensor) -> None:
        import torch

        self._event: Any = None
        self._logits = logits
        if logits.device.type == "cuda":
            self._logits = torch.empty(logits.shape, dtype=logits.dtype, pin_memory=True)
            self._logits.copy_(logits, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(logits.device))

    def numpy(self) -> NDArray[np.float32]:
        """The logits, after the device is done with them."""
        if self._event is not None:
            self._event.synchronize()
        values: NDArray[np.float32] = self._logits.cpu().numpy()
        return values


def _out_of_memory(error: RuntimeError | MemoryError) -> bool:
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # The CPU allocator raises a plain RuntimeError.
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)


def _checked(pairs: Pairs, positions: NDArray[np.int64], result: _Result) -> Batch:
    logits = result.numpy()
    bad = np.flatnonzero(~np.isfinite(logits))
    if len(bad):
        at = positions[bad[0]]
        raise RuntimeFailure(
            f"the model gave {logits[bad[0]]} for {len(bad)} of {len(logits)} pairs, first for "
            f"query {_short(pairs.queries[pairs.query_index[at]])} and document "
            f"{_short(pairs.documents[pairs.document_index[at]])}; "
            "with half precision try float32, otherwise the model's weights are broken"
        )
    return positions, logits


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
