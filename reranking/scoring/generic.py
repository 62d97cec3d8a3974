"""The engine for every cross-encoder: the stock module, in batches sorted by tokens."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from reranking.scoring.engines import AssembledPairs, PairAssembler, Pairs
from reranking.scoring.packing import padded_features
from reranking.scoring.tokens import Ints, find_template

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

logger = logging.getLogger(__name__)

_CPU_TOKENS = 4096  # activations of that many tokens still fit the caches
_DEVICE_TOKENS = 65536


class GenericEngine:
    """A stock CrossEncoder; pairs are formed by `assembler`, or by its tokenizer without one."""

    def __init__(
        self, model: CrossEncoder, assembler: PairAssembler | None, column: int = 0
    ) -> None:
        self.model = model
        self.column = column
        self.assembler = assembler
        self.device = torch.device(model.device)

    workers = 1  # stock modules are not promised to be thread-safe

    def enter_worker(self) -> None: ...

    @property
    def path(self) -> str:
        how = "generic" if self.assembler else "generic-tokenizer-pairs"
        return f"{how}/{self.device.type}"

    @property
    def batch_tokens(self) -> int:
        return _CPU_TOKENS if self.device.type == "cpu" else _DEVICE_TOKENS

    def prepare(self, pairs: Pairs) -> AssembledJob | TokenizerJob:
        """The pairs, ready to be run in any batches."""
        if self.assembler is None:
            return TokenizerJob(self.model, pairs, self.column)
        assembled = self.assembler.assemble(pairs, self.device)
        return AssembledJob(self.model, assembled, self.column)


@dataclass(frozen=True)
class AssembledJob:
    """Pairs formed from texts tokenised once."""

    model: CrossEncoder
    pairs: AssembledPairs
    column: int = 0

    @property
    def lengths(self) -> Ints:
        lengths: Ints = np.maximum(self.pairs.tokens.lengths, 1)  # one without any is padded to one
        return lengths

    @property
    def tokens(self) -> Ints:
        return self.pairs.tokens.whole

    @property
    def device(self) -> torch.device:
        return self.pairs.device

    def run(self, positions: Ints) -> torch.Tensor:
        return forward(self.model, features_of(self.model, self.pairs, positions), self.column)


@dataclass(frozen=True)
class TokenizerJob:
    """Pairs formed by the model's own tokenizer, batch by batch."""

    model: CrossEncoder
    pairs: Pairs
    column: int = 0

    tokens = None  # the tokenizer cuts pairs and does not say so

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    @property
    def lengths(self) -> Ints:
        """Characters / 4, at most the limit: good enough to sort by and to stay in the budget."""
        queries, documents = (
            np.array([len(t) for t in texts], np.int64)
            for texts in (self.pairs.queries, self.pairs.documents)
        )
        characters = queries[self.pairs.query_index] + documents[self.pairs.document_index]
        limit = self.model.max_seq_length or 512
        estimates: Ints = np.minimum(characters // 4 + 8, limit)
        return estimates

    def run(self, positions: Ints) -> torch.Tensor:
        pairs = [
            (
                self.pairs.queries[self.pairs.query_index[p]],
                self.pairs.documents[self.pairs.document_index[p]],
            )
            for p in positions
        ]
        return forward(self.model, stock_features(self.model, pairs), self.column)


def forward(model: CrossEncoder, features: dict[str, Any], column: int = 0) -> torch.Tensor:
    """Raw float32 logits (pairs,): what CrossEncoder.predict computes before the activation.

    `column` is that of the label that ranks.
    """
    moved = {
        k: v.to(model.device) if isinstance(v, torch.Tensor) else v for k, v in features.items()
    }
    if not moved["input_ids"].shape[1]:
        moved |= _padding(model, len(moved["input_ids"]), moved.keys())
    scores: torch.Tensor = model(moved)["scores"]
    return scores.float().reshape(len(scores), -1)[:, column]


def _padding(model: CrossEncoder, pairs: int, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """The features of pairs without any token, where a tokenizer puts no special ones.

    One padding token each: what predict gives such a pair in a batch with others. With nothing but
    such pairs it fails.
    """
    tokenizer: Any = model.tokenizer
    values = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    return {
        name: torch.full((pairs, 1), values.get(name, 0), device=model.device)
        for name in ("input_ids", "token_type_ids", "attention_mask")
        if name in names
    }


def stock_features(model: CrossEncoder, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """What CrossEncoder.predict feeds the model for these pairs, its default prompt included."""
    prompt = model.prompts.get(model.default_prompt_name or "")
    features: dict[str, Any] = model.preprocess(list(pairs), prompt=prompt or None)
    return features


def features_of(model: CrossEncoder, pairs: AssembledPairs, positions: Ints) -> dict[str, Any]:
    """The same features, from tokens that were put together here."""
    tokenizer: Any = model.tokenizer
    features: dict[str, Any] = padded_features(
        pairs.packed(positions),
        pad_id=tokenizer.pad_token_id,
        pad_type=tokenizer.pad_token_type_id,
        left=tokenizer.padding_side == "left",
    )
    names = set(tokenizer.model_input_names)
    return {k: v for k, v in features.items() if k in names} | {"modality": "text"}


def build_assembler(model: CrossEncoder, max_length: int) -> PairAssembler | None:
    """An assembler whose pairs equal the tokenizer's own, or None where they differ."""
    from tokenizers import Tokenizer

    from reranking.scoring.sample import token_sample

    backend = getattr(model.tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer) or model.tokenizer.pad_token_id is None:
        return None
    own = Tokenizer.from_str(backend.to_str())  # a copy: the stock one changes its settings
    own.no_truncation()
    own.no_padding()
    template = find_template(own)
    if template is None or max_length < template.specials + 2:
        return None
    if "token_type_ids" not in model.tokenizer.model_input_names:
        template = replace(template, types=(0, 0, 0, 0, 0))
    prompt = model.prompts.get(model.default_prompt_name or "") or ""
    assembler = PairAssembler(own, template, max_length, prompt)
    if _forms_same_pairs(model, assembler, token_sample(max_length)):
        return assembler
    logger.warning("pairs are formed by the tokenizer itself: its template could not be copied")
    return None


def _forms_same_pairs(
    model: CrossEncoder, assembler: PairAssembler, sample: Sequence[tuple[str, str]]
) -> bool:
    """Whether ids, types and mask equal the tokenizer's, in a mixed batch."""
    count = np.arange(len(sample))
    pairs = Pairs([q for q, _ in sample], [d for _, d in sample], count, count)
    own = features_of(model, assembler.assemble(pairs, torch.device("cpu")), count)
    stock = stock_features(model, sample)
    tensors = {k for k, v in stock.items() if isinstance(v, torch.Tensor)}
    if stock.get("modality") != "text" or tensors != own.keys() - {"modality"}:
        return False
    return all(torch.equal(own[k], stock[k]) for k in tensors)
