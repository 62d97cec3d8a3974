"""Which attention suits a device and type; the CUDA kernel for pairs of any lengths."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

import torch

from reranking.scoring.cpu.attention import attend_matmul, attend_runs, matmul_is_better
from reranking.scoring.packing import Packed


class Attention(Protocol):
    """Attention output of q's shape, of packed (tokens, heads, width) tensors; q is scaled."""

    def __call__(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        packed: Packed,
        first_only: bool,
        window: int | None = None,
    ) -> torch.Tensor: ...


def attend_varlen(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    packed: Packed,
    first_only: bool,
    window: int | None = None,
) -> torch.Tensor:
    """The same as attend_runs in one CUDA kernel for half types.

    torch 2.10 has the kernel without a scale, 2.11 adds the scale and the window, and 2.12 the
    number of splits: 1 makes the kernel's results independent of the other pairs of a batch.
    """
    from torch.nn.attention.varlen import varlen_attn

    accepted = _parameters(varlen_attn)
    longest = max(packed.lengths)
    options: dict[str, Any] = {}
    if window is not None and longest > window + 1 and not first_only:
        if "window_size" not in accepted:
            return attend_runs(q, k, v, packed, first_only, window)
        options["window_size"] = (window, window)
    if "scale" in accepted:
        options["scale"] = 1.0
    else:
        q = q * q.shape[-1] ** 0.5  # which the kernel divides by
    if "num_splits" in accepted:
        options["num_splits"] = 1
    starts = packed.starts
    query_starts = torch.arange(len(starts), dtype=torch.int32, device=q.device)
    out = varlen_attn(
        q,
        k,
        v,
        query_starts if first_only else starts,
        starts,
        1 if first_only else longest,
        longest,
        **options,
    )
    assert isinstance(out, torch.Tensor)  # a tuple comes only if the log-sum-exp is asked for
    return out


@cache
def _parameters(function: Callable[..., object]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def choose_attention(
    device: torch.device, dtype: torch.dtype, heads: int, width: int
) -> tuple[Attention, str]:
    """The fastest exact attention for this device and type, and its name."""
    if device.type == "cuda" and dtype != torch.float32:
        try:
            from torch.nn.attention.varlen import varlen_attn  # noqa: F401
        except ImportError:
            return attend_runs, "sdpa"
        return attend_varlen, "varlen"
    if device.type == "cpu" and matmul_is_better(dtype, heads, width):
        return attend_matmul, "matmul"
    return attend_runs, "sdpa"
