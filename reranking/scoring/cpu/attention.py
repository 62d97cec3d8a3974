"""Self-attention over pairs without padding: (tokens, heads, width) tensors and pair starts.

With a `window`, a token attends to those of its pair that are at most that many tokens away.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from reranking.scoring.cpu.choices import remembered_seconds
from reranking.scoring.cpu.linears import CLEARLY, least_seconds
from reranking.scoring.packing import Packed

logger = logging.getLogger(__name__)

_MATMUL: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
_CHUNK_BYTES = 2 << 20  # attention weights of that size stay in a core's caches
_STEP = 16  # tokens between two padded lengths


def runs(lengths: tuple[int, ...]) -> Iterator[tuple[int, int, int, int]]:
    """(first pair, pairs, first token, tokens of each) of neighbours with equal length."""
    first, token = 0, 0
    for i in range(1, len(lengths) + 1):
        if i == len(lengths) or lengths[i] != lengths[first]:
            yield first, i - first, token, lengths[first]
            token += (i - first) * lengths[first]
            first = i


def attend_runs(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    packed: Packed,
    first_only: bool,
    window: int | None = None,
) -> torch.Tensor:
    """Attention output of q's shape; one fused call per run of pairs of equal length.

    q is expected to be scaled. With `first_only` it holds one row per pair, its first token's, and
    a window is not possible.
    """
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    views = (_of_runs(x, packed, n) for x, n in ((q, first_only), (k, False), (v, False)))
    for (_, queries), (_, keys), (_, values), (_, result) in zip(
        *views, _of_runs(out, packed, first_only), strict=True
    ):
        for rows, near, far in blocks(keys.shape[2], None if first_only else window, q.device):
            result[:, :, rows].copy_(
                scaled_dot_product_attention(
                    queries[:, :, rows],
                    keys[:, :, near],
                    values[:, :, near],
                    attn_mask=None if far is None else far.logical_not(),
                    scale=1.0,
                )
            )
    return out


def blocks(
    length: int, window: int | None, device: torch.device
) -> Iterator[tuple[slice, slice, torch.Tensor | None]]:
    """(queries, keys near enough to some of them, True where a key is too far from a query).

    Together the blocks hold every query once; without a window that matters it is one block.
    """
    if window is None or length <= window + 1:
        yield slice(None), slice(None), None
        return
    step = 2 * max(window, _STEP)
    for start in range(0, length, step):
        end = min(length, start + step)
        first, last = max(0, start - window), min(length, end + window)
        queries = torch.arange(start, end, device=device)
        keys = torch.arange(first, last, device=device)
        far = (queries[:, None] - keys).abs() > window
        yield slice(start, end), slice(first, last), far


def attend_matmul(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    packed: Packed,
    first_only: bool,
    window: int | None = None,
) -> torch.Tensor:
    """The same as two oneDNN products around a softmax; float16, which CPUs lack, in float32.

    torch's fused CPU kernel multiplies with MKL, which some processors run at less than half of
    oneDNN's speed, and is slower still in bfloat16. oneDNN compiles code for every new shape, so
    the pairs of a batch, which are of nearly equal length, are padded to one of few lengths.
    """
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    if q.dtype == torch.float16:
        q, k, v = q.float(), k.float(), v.float()
    queries = _padded(q, packed, first_only)
    keys, values = _padded(k, packed, False), _padded(v, packed, False)
    turned = keys.transpose(2, 3)
    attended = torch.empty_like(queries)
    parts = list(blocks(keys.shape[2], None if first_only else window, q.device))
    size = (
        keys[0, 0, parts[0][1]].shape[0] * attended[0, 0, parts[0][0]].shape[0] * q.element_size()
    )
    with _onednn_products:
        for part in _chunks(len(queries), queries.shape[1], size):
            for rows, near, far in parts:
                weights = torch.matmul(queries[part][:, :, rows], turned[part][..., near])
                _hide_padding(weights, part[0].start, near.start or 0, packed)
                if far is not None:
                    weights.masked_fill_(far, -torch.inf)
                weights = torch.softmax(weights, -1)
                attended[part][:, :, rows] = torch.matmul(weights, values[part][:, :, near])
    for pairs, result in _of_runs(out, packed, first_only):
        result.copy_(attended[pairs, :, : result.shape[2]])
    return out


def _of_runs(
    x: torch.Tensor, packed: Packed, first_only: bool
) -> Iterator[tuple[slice, torch.Tensor]]:
    """The pairs of each run, and their part of x as (pairs, heads, rows, width)."""
    for pair, count, token, length in runs(packed.lengths):
        pairs = slice(pair, pair + count)
        rows = x[pairs if first_only else slice(token, token + count * length)]
        yield pairs, rows.view(count, -1, *x.shape[1:]).transpose(1, 2)


def _padded(x: torch.Tensor, packed: Packed, first_only: bool) -> torch.Tensor:
    """x as (pairs, heads, rows, width), zeros after the last row of a pair."""
    rows = 1 if first_only else -(-max(packed.lengths) // _STEP) * _STEP
    padded = x.new_zeros(len(packed.lengths), x.shape[1], rows, x.shape[2])
    for pairs, run in _of_runs(x, packed, first_only):
        padded[pairs, :, : run.shape[2]] = run
    return padded


def _hide_padding(weights: torch.Tensor, first: int, key: int, packed: Packed) -> None:
    """Leave nothing to the keys after a pair's last.

    `weights` are of the pairs from `first` on, and of their keys from `key` on.
    """
    for pair, count, _, length in runs(packed.lengths):
        start, end = max(0, pair - first), min(len(weights), pair + count - first)
        if start < end and length - key < weights.shape[-1]:
            weights[start:end, ..., max(0, length - key) :] = -torch.inf


def _chunks(pairs: int, heads: int, size: int) -> Iterator[tuple[slice, slice]]:
    """(pairs, heads) whose attention weights, `size` bytes a head, stay in the cache."""
    fitting = max(1, _CHUNK_BYTES // size)
    many, some = max(1, fitting // heads), min(heads, fitting)
    for pair in range(0, pairs, many):
        for head in range(0, heads, some):
            yield slice(pair, pair + many), slice(head, head + some)


class _OneDnnProducts:
    """While entered, torch.matmul of float32 goes to oneDNN; the setting is the process's.

    The setting allows bfloat16 products where a processor has them (AMX); matmul_is_better
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


def matmul_is_better(dtype: torch.dtype, heads: int, width: int) -> bool:
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
        times = remembered_seconds(
            f"attention {len(lengths)} x {lengths[0]}, {heads} x {width} {dtype}",
            ("sdpa", "matmul"),
            lambda: least_seconds(
                lambda: attend_runs(q, k, v, packed, False),
                lambda: attend_matmul(q, k, v, packed, False),
            ),
        )
    except (RuntimeError, AttributeError) as error:
        logger.info("attention by oneDNN products is not usable here: %s", error)
        return False
    logger.debug("attention by oneDNN products: %.2f times as fast", times[0] / times[1])
    bound = 1e-5 if dtype == torch.float32 else 2e-2
    return gap <= bound and times[0] > CLEARLY * times[1]
