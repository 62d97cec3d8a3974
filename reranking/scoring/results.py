"""Logits on their way to the host: from a thread, or from a device that works on its own."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from reranking.errors import RuntimeFailure

if TYPE_CHECKING:
    from reranking.scoring.engines import Job

Logits = NDArray[np.float32]


class Result(Protocol):
    """A batch under way."""

    def __call__(self) -> Logits | None:
        """Wait for the logits; None if memory did not suffice."""

    def cancel(self) -> object:
        """Give it up."""


def attempt(job: Job, positions: NDArray[np.int64]) -> DeviceResult:
    """Start the pairs at `positions` and return without waiting for a CUDA device.

    Raises RuntimeFailure where the device is lost.
    """
    try:
        with torch.inference_mode():
            return DeviceResult(job.run(positions))
    except torch.AcceleratorError as error:
        raise _lost(error) from error
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
    # Outside the except block, whose traceback would keep the batch's tensors alive.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return DeviceResult(None)


class DeviceResult:
    """Logits that are being copied to the host; None where memory ran out."""

    def __init__(self, logits: torch.Tensor | None) -> None:
        self._logits = logits
        self._done: torch.cuda.Event | None = None
        if logits is not None and logits.device.type == "cuda":
            self._logits = torch.empty(logits.shape, dtype=logits.dtype, pin_memory=True)
            self._logits.copy_(logits, non_blocking=True)
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record(torch.cuda.current_stream(logits.device))

    def __call__(self) -> Logits | None:
        if self._logits is None:
            return None
        if self._done is not None:
            try:
                self._done.synchronize()
            except torch.AcceleratorError as error:
                raise _lost(error) from error
        values: Logits = self._logits.cpu().numpy()
        return values

    def cancel(self) -> None: ...


class PooledResult:
    """Logits that a thread is computing."""

    def __init__(self, future: Future[DeviceResult]) -> None:
        self._future = future

    def __call__(self) -> Logits | None:
        return self._future.result()()

    def cancel(self) -> bool:
        return self._future.cancel()


def _lost(error: RuntimeError) -> RuntimeFailure:
    return RuntimeFailure(
        f"the device failed: {str(error).splitlines()[0]}. It is unusable for this process; what "
        "was committed stays: check the device and start the command again to go on"
    )


def _out_of_memory(error: RuntimeError | MemoryError) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # The CPU allocator raises a plain RuntimeError.
    return "can't allocate memory" in str(error) or "not enough memory" in str(error)
