"""From segments of the token pool to the tensors that a forward takes; on the pool's device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from numpy.typing import NDArray

from reranking.scoring.tokens import Segments

# Activations of that many tokens stay in the caches of a core; measured in benchmarks/NOTES.md.
CPU_TOKENS = 2048
CUDA_TOKENS = 98304


@dataclass(frozen=True)
class Packed:
    """A batch of pairs without padding: their tokens one after the other."""

    ids: torch.Tensor  # (tokens,) int32
    types: torch.Tensor  # (tokens,) int64
    positions: torch.Tensor  # (tokens,) int64, from 0 in each pair
    rows: torch.Tensor  # (tokens,) int64, the token's pair in the batch
    starts: torch.Tensor  # (pairs + 1,) int32, where each pair's tokens start
    lengths: tuple[int, ...]  # tokens of each pair, known to the host


def pack(pool: torch.Tensor, types: torch.Tensor, segments: Segments) -> Packed:
    """The batch's tokens, gathered on the device that `pool` and `types` are on."""
    pairs = len(segments.lengths)
    row_lengths = segments.lengths.sum(axis=1)
    total = int(row_lengths.sum())
    parts = _upload(segments.lengths.reshape(-1), pool.device)
    sources = _upload(segments.sources.reshape(-1), pool.device)
    part_starts = parts.cumsum(0) - parts
    steps = torch.arange(total, device=pool.device)
    # output_size keeps the device from having to tell the host how long the result is.
    index = torch.repeat_interleave(sources - part_starts, parts, output_size=total) + steps
    lengths = parts.view(pairs, 5).sum(1)
    starts = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    rows = torch.repeat_interleave(
        torch.arange(pairs, device=pool.device), lengths, output_size=total
    )
    return Packed(
        ids=pool[index],
        types=torch.repeat_interleave(types.repeat(pairs), parts, output_size=total),
        positions=steps - starts[rows],
        rows=rows,
        starts=starts.int(),
        lengths=tuple(row_lengths.tolist()),
    )


def _upload(values: NDArray, device: torch.device) -> torch.Tensor:  # type: ignore[type-arg]
    tensor = torch.from_numpy(values)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def padded_features(
    packed: Packed, *, pad_id: int, pad_type: int, left: bool
) -> dict[str, torch.Tensor]:
    """The batch as the padded tensors that a tokenizer gives."""
    shape = (len(packed.lengths), max(packed.lengths))
    device = packed.ids.device
    columns = packed.positions
    if left:
        lengths = packed.starts.diff().long()
        columns = columns + (shape[1] - lengths)[packed.rows]
    at = (packed.rows, columns)
    ids = torch.full(shape, pad_id, dtype=torch.long, device=device)
    types = torch.full(shape, pad_type, dtype=torch.long, device=device)
    mask = torch.zeros(shape, dtype=torch.long, device=device)
    ids[at] = packed.ids.long()
    types[at] = packed.types
    mask[at] = 1
    return {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}
