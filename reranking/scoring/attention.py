"""Self-attention over pairs without padding: (tokens, heads, width) tensors and pair starts."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from reranking.scoring.linears import CLEARLY, least_seconds
from reranking.scoring.packing import Packed

logger = logging.getLogger(__name__)

_MATMUL: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
_CHUNK_BYTES = 2 << 20  # attention weights of that size stay in a core's caches

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Packed, bool], torch.Tensor]


def runs(lengths: tuple[int, ...]) -> Iterator[tuple[int, int, int, int]]:
    """(first pair, pairs, first token, tokens of each) of neighbours with equal length."""
    first, token = 0, 0
    for i in range(1, len(lengths) + 1):
        if i == len(lengths) or lengths[i] != lengths[first]:
            yield first, i - first, token, lengths[first]
            token += (i - first) * lengths[first]
            first = i


def attend_runs(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, packed: Packed, first_only: bool
) -> torch.Tensor:
    """Attention output of q's shape; one fused call per run of pairs of equal length.

    q is expected to be scaled. With `first_only` it holds one row per pair: its first token's.
    """
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    for queries, keys, values, result in _views(q, k, v, out, packed, first_only):
        result.copy_(scaled_dot_product_attention(queries, keys, values, scale=1.0))
    return out


def attend_matmul(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, packed: Packed, first_only: bool
) -> torch.Tensor:
    """The same as two oneDNN products around a softmax, in float32 whatever the type.

    torch's fused CPU kernel multiplies with MKL, which some processors run at less than half of
    oneDNN's speed, and is slower still in bfloat16.
    """
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    with _onednn_products:
        views = _views(q.float(), k.float(), v.float(), out, packed, first_only)
        for queries, keys, values, result in views:
            turned = keys.transpose(2, 3)
            weights_each = queries.shape[2] * keys.shape[2]
            for part in _chunks(len(queries), queries.shape[1], weights_each):
                weights = torch.softmax(torch.matmul(queries[part], turned[part]), -1)
                result[part] = torch.matmul(weights, values[part])
    return out


def _views(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    packed: Packed,
    first_only: bool,
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """q, k, v and out of each run, as (pairs, heads, rows, width)."""
    heads, width = q.shape[1:]
    for pair, count, token, length in runs(packed.lengths):
        tokens = slice(token, token + count * length)
        rows = slice(pair, pair + count) if first_only else tokens
        yield tuple(  # type: ignore[misc]
            x[at].view(count, -1, heads, width).transpose(1, 2)
            for x, at in ((q, rows), (k, tokens), (v, tokens), (out, rows))
        )


def _chunks(pairs: int, heads: int, weights: int) -> Iterator[tuple[slice, slice]]:
    """(pairs, heads) whose attention weights, `weights` numbers a head, stay in the cache."""
    fitting = max(1, _CHUNK_BYTES // (4 * weights))
    many, some = max(1, fitting // heads), min(heads, fitting)
    for pair in range(0, pairs, many):
        for head in range(0, heads, some):
            yield slice(pair, pair + many), slice(head, head + some)


class _OneDnnProducts:
    """While entered, torch.matmul of float32 goes to oneDNN; the setting is the process's.

    The setting allows bfloat16 products where a processor has them (AMX); choose_attention
    refuses this way there, since results differ.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = ""

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._before = _MATMUL.fp32_precision
                _MATMUL.fp32_precision = "bf16"

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                _MATMUL.fp32_precision = self._before


_onednn_products = _OneDnnProducts()


def attend_varlen(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, packed: Packed, first_only: bool
) -> torch.Tensor:
    """The same in one CUDA kernel for half types; num_splits=1 makes it batch-invariant."""
    from torch.nn.attention.varlen import varlen_attn

    longest = max(packed.lengths)
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
        scale=1.0,
        num_splits=1,
    )
    assert isinstance(out, torch.Tensor)  # a tuple comes only where the log-sum-exp is asked for
    return out


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
    if device.type == "cpu" and _matmul_is_better(dtype, heads, width):
        return attend_matmul, "matmul"
    return attend_runs, "sdpa"


def _matmul_is_better(dtype: torch.dtype, heads: int, width: int) -> bool:
    """Whether attend_matmul gives the same as attend_runs here, and in less time."""
    lengths = (192,) * 4
    total = sum(lengths)
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, total, heads, width, generator=generator).to(dtype)
    starts = torch.arange(0, total + 1, lengths[0], dtype=torch.int32)
    unused = torch.empty(0)
    packed = Packed(unused, unused, unused, unused, starts, lengths)
    q = q * width**-0.5
    try:
        exact = attend_runs(q.float(), k.float(), v.float(), packed, False)
        gap = float((attend_matmul(q, k, v, packed, False).float() - exact).abs().max())
        times = least_seconds(
            lambda: attend_runs(q, k, v, packed, False),
            lambda: attend_matmul(q, k, v, packed, False),
        )
    except (RuntimeError, AttributeError) as error:
        logger.info("attention by oneDNN products is not usable here: %s", error)
        return False
    logger.info("attention by oneDNN products: %.2f times as fast", times[0] / times[1])
    bound = 1e-5 if dtype == torch.float32 else 2e-2
    return gap <= bound and times[0] > CLEARLY * times[1]
