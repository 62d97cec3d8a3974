"""What a scorer needs from an engine: pairs prepared once, then logits of any batch of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from reranking.scoring.packing import Packed, pack
from reranking.scoring.tokens import Ints, PairTemplate, PairTokens, tokenize

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Pairs:
    """Distinct texts and the pairs to be formed of them."""

    queries: Sequence[str]
    documents: Sequence[str]
    query_index: NDArray[np.int64]
    document_index: NDArray[np.int64]


class Job(Protocol):
    """Prepared pairs."""

    @property
    def lengths(self) -> Ints:
        """Tokens of each pair; estimates if only the tokenizer itself can form pairs."""

    @property
    def tokens(self) -> Ints | None:
        """Tokens of each whole pair, before any are cut; None if only the tokenizer knows them."""

    @property
    def device(self) -> torch.device: ...

    def run(self, positions: Ints) -> torch.Tensor:
        """Float32 logits (pairs,) of the pairs at `positions`; a device may still be at work."""


class Engine(Protocol):
    """A model on a device."""

    @property
    def path(self) -> str:
        """How scores are computed, for people."""

    @property
    def batch_tokens(self) -> int:
        """Tokens of a batch that suit the device."""

    @property
    def workers(self) -> int:
        """Threads that may each run a batch at the same time."""

    @property
    def device(self) -> torch.device: ...

    def enter_worker(self) -> None:
        """Prepare the calling thread to be such a worker."""

    def prepare(self, pairs: Pairs) -> Job: ...


@dataclass(frozen=True)
class PairAssembler:
    """Forms pairs from texts tokenised once, as the model's tokenizer would."""

    tokenizer: Tokenizer  # neither truncates nor pads
    template: PairTemplate
    max_length: int
    prompt: str = ""

    def assemble(self, pairs: Pairs, device: torch.device) -> AssembledPairs:
        """The pairs with their token pool on `device`."""
        queries = [self.prompt + q for q in pairs.queries] if self.prompt else pairs.queries
        tokens = PairTokens(
            self.template,
            tokenize(self.tokenizer, queries, self.max_length),
            tokenize(self.tokenizer, pairs.documents, self.max_length),
            pairs.query_index,
            pairs.document_index,
            self.max_length,
        )
        pool = torch.from_numpy(tokens.pool).to(device)
        return AssembledPairs(tokens, pool, torch.from_numpy(tokens.types).to(device))


@dataclass(frozen=True)
class AssembledPairs:
    """Pairs whose tokens are gathered from a pool on the device."""

    tokens: PairTokens
    pool: torch.Tensor
    types: torch.Tensor

    @property
    def device(self) -> torch.device:
        """Where the pool is."""
        return self.pool.device

    def packed(self, positions: Ints) -> Packed:
        """The tokens of the pairs at `positions`, without padding."""
        return pack(self.pool, self.types, self.tokens.segments(positions))
