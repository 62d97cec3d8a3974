"""Self-attention over pairs without padding: (tokens, heads, width) tensors and pair starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch.nn.functional import scaled_dot_product_attention

from reranking.scoring.packing import Packed

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
    """Attention output of q's shape; one call per run of pairs of equal length.

    With `first_only`, q holds one row per pair: that of its first token.
    """
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    heads, width = q.shape[1:]
    for pair, count, token, length in runs(packed.lengths):
        tokens = slice(token, token + count * length)
        rows = slice(pair, pair + count) if first_only else tokens
        shape = (count, length, heads, width)
        part = scaled_dot_product_attention(
            q[rows].view(count, -1, heads, width).transpose(1, 2),
            k[tokens].view(shape).transpose(1, 2),
            v[tokens].view(shape).transpose(1, 2),
        )
        out[rows].view(count, -1, heads, width).copy_(part.transpose(1, 2))
    return out


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
        num_splits=1,
    )
    assert isinstance(out, torch.Tensor)  # a tuple comes only where the log-sum-exp is asked for
    return out


def choose_attention(device: torch.device, dtype: torch.dtype) -> tuple[Attention, str]:
    """The attention for this device and type, and its name."""
    if device.type == "cuda" and dtype != torch.float32:
        try:
            from torch.nn.attention.varlen import varlen_attn  # noqa: F401
        except ImportError:
            return attend_runs, "sdpa"
        return attend_varlen, "varlen"
    return attend_runs, "sdpa"
