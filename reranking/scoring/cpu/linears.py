"""Linear layers in the faster of torch's two CPU GEMM libraries; plain ones on other devices."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from torch.nn.functional import gelu, linear, relu

from reranking.scoring.cpu.choices import remembered_seconds

logger = logging.getLogger(__name__)

# oneDNN and torch's wrapper around it each keep what they compiled for the last 1,024 shapes, which
# is gigabytes: every batch has a number of tokens of its own. Read at the first use of the library.
for _cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
    os.environ.setdefault(_cache, "32")

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "": lambda x: x,
    "gelu": gelu,
    "gelu_tanh": partial(gelu, approximate="tanh"),
    "relu": relu,
}
# name -> (post-op, algorithm) of oneDNN, as Inductor spells them (torch/_inductor/fx_passes)
_FUSED = {
    "": ("none", ""),
    "gelu": ("gelu", "none"),
    "gelu_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
}
CLEARLY = 1.05  # what relies on more than plain torch must win by more than noise
_TRIES = 9


class Linear(Protocol):
    """x (rows, in) -> activation(x @ weight.T + bias) (rows, out)."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


Maker = Callable[[torch.Tensor, torch.Tensor | None, str, int], Linear]


class PlainLinear:
    """torch.nn.functional.linear: MKL on CPU, cuBLAS on CUDA."""

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, activation: str = "", rows: int = 0
    ) -> None:
        self.weight = weight
        self.bias = bias
        self.activate = ACTIVATIONS[activation]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.activate(linear(x, self.weight, self.bias))


class PrepackedLinear:
    """oneDNN with the weight reordered once and the activation fused; private torch ops."""

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        activation: str = "",
        rows: int = 4096,
    ) -> None:
        ops: Any = torch.ops.mkldnn
        self.weight = ops._reorder_linear_weight(weight.contiguous(), rows)
        self.bias = bias
        self.post, self.algorithm = _FUSED[activation]
        self._run = ops._linear_pointwise

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self._run(x, self.weight, self.bias, self.post, [], self.algorithm)
        return y


def choose_linear(
    weight: torch.Tensor, bias: torch.Tensor | None, activation: str, rows: int
) -> tuple[Maker, str]:
    """The faster way for layers like this one on this machine, and its name."""
    if weight.device.type != "cpu":
        return PlainLinear, weight.device.type
    x = torch.randn(rows, weight.shape[1], generator=torch.Generator().manual_seed(0))
    x = x.to(weight.dtype)
    plain = PlainLinear(weight, bias, activation)
    try:
        packed = PrepackedLinear(weight, bias, activation, rows)
        gap = float((packed(x) - plain(x)).abs().max())
        seconds = remembered_seconds(
            f"linear {rows} x {tuple(weight.shape)} {weight.dtype} {activation}",
            ("torch", "onednn"),
            lambda: least_seconds(lambda: plain(x), lambda: packed(x)),
        )
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        logger.info("oneDNN's prepacked linear is not usable here: %s", error)
        return PlainLinear, "torch"
    bound = 1e-3 if weight.dtype == torch.float32 else 0.1
    scale = max(1.0, float(plain(x).abs().max()))
    ratio = seconds[0] / seconds[1]
    logger.debug("prepacked oneDNN linear: %.2f times as fast as torch's", ratio)
    if gap > bound * scale or ratio < CLEARLY:
        return PlainLinear, "torch"
    return PrepackedLinear, "onednn"


def half_slowdown(dtype: torch.dtype) -> float:
    """How many times as long as float32 a product in the half type `dtype` takes on this CPU."""
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(128, 384, generator=generator), torch.randn(768, 384)
    half_x, half_weight = x.to(dtype), weight.to(dtype)
    with single_thread():
        seconds = remembered_seconds(
            f"half precision: 128 x {tuple(weight.shape)} {dtype}",
            ("float32", "half"),
            lambda: least_seconds(lambda: linear(x, weight), lambda: linear(half_x, half_weight)),
        )
    return seconds[1] / seconds[0]


def least_seconds(*calls: Callable[[], object]) -> list[float]:
    """CPU seconds of each call's least disturbed try; tries take turns, after one to warm up.

    The calling thread's own time: meant for a single thread, as the engine's workers are.
    """
    for call in calls:
        call()
    tries = [[_thread_seconds(call) for call in calls] for _ in range(_TRIES)]
    return [min(taken) for taken in zip(*tries, strict=True)]


def _thread_seconds(call: Callable[[], object]) -> float:
    start = time.thread_time()
    call()
    return time.thread_time() - start


@contextmanager
def single_thread() -> Iterator[None]:
    """Operations of the calling thread stay on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
