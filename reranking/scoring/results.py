"""Logits on their way to the host: from a thread, or from a device that works on its own."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from reranking.errors import RuntimeFailure

if TYPE_CHECKING:
    from reranking.scoring.engines import Job

Logits = NDArray[np.float32]
OUT_OF_MEMORY = "out of memory"


class Result(Protocol):
    """A batch under way."""

    def __call__(self) -> Logits | str:
        """Wait for the logits; what went wrong if a smaller batch may succeed."""

    def cancel(self) -> object:
        """Give it up."""


def attempt(job: Job, positions: NDArray[np.int64]) -> DeviceResult:
    """Start the pairs at `positions` and return without waiting for a CUDA device.

    Raises RuntimeFailure if the device is lost.
    """
    try:
        with torch.inference_mode():
            return DeviceResult(job.run(positions))
    except torch.AcceleratorError as error:
        reason = _survived(error, job.device)
    except (RuntimeError, MemoryError) as error:
        if _out_of_memory(error):
            reason = OUT_OF_MEMORY
        elif job.device.type != "cpu":
            reason = _survived(error, job.device)
        else:
            raise
    # Outside the except block, whose traceback would keep the batch's tensors alive.
    _free(job.device)
    return DeviceResult(reason)


class DeviceResult:
    """Logits that are being copied to the host, or what went wrong."""

    def __init__(self, outcome: torch.Tensor | str) -> None:
        self._outcome = outcome
        self._done: torch.cuda.Event | None = None
        if isinstance(outcome, torch.Tensor) and outcome.device.type == "cuda":
            self._device = outcome.device
            self._outcome = torch.empty(outcome.shape, dtype=outcome.dtype, pin_memory=True)
            self._outcome.copy_(outcome, non_blocking=True)
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record(torch.cuda.current_stream(outcome.device))

    def __call__(self) -> Logits | str:
        if isinstance(self._outcome, str):
            return self._outcome
        if self._done is not None:
            try:
                self._done.synchronize()
            except RuntimeError as error:
                return _survived(error, self._device)
        values: Logits = self._outcome.cpu().numpy()
        return values

    def cancel(self) -> None: ...


class PooledResult:
    """Logits that a thread is computing."""

    def __init__(self, future: Future[DeviceResult]) -> None:
        self._future = future

    def __call__(self) -> Logits | str:
        return self._future.result()()

    def cancel(self) -> bool:
        return self._future.cancel()


def _survived(error: RuntimeError | MemoryError, device: torch.device) -> str:
    """The error's first line if the device still computes after it; raises RuntimeFailure if not.

    Most errors of a CUDA kernel leave nothing usable behind.
    """
    if _out_of_memory(error):
        return OUT_OF_MEMORY
    if device.type == "cpu":
        raise _lost(error) from error
    try:
        torch.ones(1, device=device).add(1).cpu()
    except (RuntimeError, AssertionError):
        raise _lost(error) from error
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _free(device: torch.device) -> None:
    """Give back what the allocator of the device keeps for later."""
    module: Any = getattr(torch, device.type, None)
    if device.type != "cpu" and module is not None:
        module.empty_cache()


def _lost(error: RuntimeError | MemoryError) -> RuntimeFailure:
    return RuntimeFailure(
        f"the device failed: {str(error).splitlines()[0]}. It is unusable for this process; what "
        "was committed stays: check the device and start the command again to go on"
    )


def _out_of_memory(error: RuntimeError | MemoryError) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    # The allocators of CPU and MPS, cuBLAS and cuDNN raise a plain RuntimeError.
    words = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")
    return any(word in str(error) for word in words)
