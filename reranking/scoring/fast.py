"""The engine of the fast forwards, which compute only what a reranker's one logit needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from reranking.scoring.cpu.linears import single_thread
from reranking.scoring.engines import AssembledPairs, PairAssembler, Pairs
from reranking.scoring.fast_bert import FastBert, bert_layout
from reranking.scoring.fast_modernbert import FastModernBert, modernbert_layout
from reranking.scoring.packing import CPU_TOKENS, CUDA_TOKENS, Packed
from reranking.scoring.tokens import Ints

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


class Forward(Protocol):
    """A model's weights, rearranged."""

    name: str

    def __call__(self, packed: Packed) -> torch.Tensor:
        """Float32 logits (pairs,)."""


def fast_layout(model: CrossEncoder) -> str | None:
    """The layout's name if the model and its device can take a fast path, otherwise None."""
    if torch.device(model.device).type not in ("cpu", "cuda"):
        return None
    return bert_layout(model) or modernbert_layout(model)


class FastEngine:
    """The fast forward and the assembler that feeds it."""

    def __init__(
        self, model: CrossEncoder, layout: str, assembler: PairAssembler, dtype: torch.dtype
    ) -> None:
        self.device = torch.device(model.device)
        self.batch_tokens = CPU_TOKENS if self.device.type == "cpu" else CUDA_TOKENS
        self.assembler = assembler
        self.layout = layout
        self.forward: Forward
        # One thread, because that is how the kernels that are timed here will be used.
        with torch.inference_mode(), single_thread():
            if layout == "modernbert":
                self.forward = FastModernBert(model, dtype, self.batch_tokens)
            else:
                self.forward = FastBert(model, layout, dtype, self.batch_tokens)
        self.workers = torch.get_num_threads() if self.device.type == "cpu" else 1
        self.path = f"packed-{layout}/{self.forward.name}/{self.device.type}"

    def enter_worker(self) -> None:
        """One core per worker; the setting holds for the calling thread only."""
        torch.set_num_threads(1)

    def prepare(self, pairs: Pairs) -> FastJob:
        """The pairs, ready to be run in any batches."""
        return FastJob(self.forward, self.assembler.assemble(pairs, self.device))


@dataclass(frozen=True)
class FastJob:
    """Pairs formed from texts tokenised once, scored by the fast forward."""

    forward: Forward
    pairs: AssembledPairs

    @property
    def lengths(self) -> Ints:
        return self.pairs.tokens.lengths

    @property
    def tokens(self) -> Ints:
        return self.pairs.tokens.whole

    @property
    def device(self) -> torch.device:
        return self.pairs.device

    def run(self, positions: Ints) -> torch.Tensor:
        return self.forward(self.pairs.packed(positions))
