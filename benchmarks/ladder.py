"""The engine step by step: the stock model, then one idea after the other, on the same pairs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine import LENGTH, needed_flops
from benchmarks.pipeline import Took
from reranking.models.files import read_model_files
from reranking.scoring.cpu import attention, linears
from reranking.scoring.engines import Pairs
from reranking.scoring.fast import FastEngine, fast_layout
from reranking.scoring.generic import GenericEngine, build_assembler, stock_features
from reranking.scoring.load import load_stock
from reranking.scoring.scorer import PairScorer

FACTORS = ("tokenising", "padding", "packing and threads", "last layer", "GEMM")


class Ladder:
    """Two scorers between LanceDB's way and ours, and what tokenising costs both."""

    def __init__(self, folder: Path, device: str) -> None:
        self.stock = load_stock(read_model_files(folder), device, LENGTH, False)
        assembler = build_assembler(self.stock, LENGTH)
        layout = fast_layout(self.stock)
        assert assembler is not None and layout is not None
        import torch

        with _plain_libraries():
            plain = FastEngine(self.stock, layout, assembler, torch.float32)
        self.generic = GenericEngine(self.stock, assembler)
        self.steps = {
            "sorted": PairScorer(self.generic, dtype="float32", max_length=LENGTH),
            "packed": PairScorer(plain, dtype="float32", max_length=LENGTH),
        }

    def lengths(self, pairs: Pairs) -> np.ndarray:
        """Tokens of each pair."""
        return self.generic.prepare(pairs).lengths

    def step(self, name: str, pairs: Pairs) -> Took:
        """One step's time over the pairs."""
        with Took() as took:
            self.steps[name].score(
                pairs.queries, pairs.documents, pairs.query_index, pairs.document_index
            )
        return took

    def tokenising(self, pairs: Pairs) -> tuple[Took, Took, float]:
        """Every pair of a query in batches of 32, against each text once; their real tokens' share.

        The batches are those of `predict`: sorted by characters within a query.
        """
        texts = [
            (pairs.queries[q], pairs.documents[d])
            for q, d in zip(pairs.query_index, pairs.document_index, strict=True)
        ]
        real = padded = 0
        each = Took()
        for query in np.unique(pairs.query_index):
            mine = [texts[i] for i in np.flatnonzero(pairs.query_index == query)]
            mine.sort(key=lambda pair: -len(pair[1]))
            for start in range(0, len(mine), 32):
                with each:
                    mask = stock_features(self.stock, mine[start : start + 32])["attention_mask"]
                real, padded = real + int(mask.sum()), padded + mask.numel()
        with Took() as once:
            self.generic.prepare(pairs)
        return each, once, real / padded


@contextmanager
def _plain_libraries() -> Iterator[None]:
    """torch's own linear and attention, however fast others are."""
    modules: list[Any] = [linears, attention]
    before = [m.CLEARLY for m in modules]
    for m in modules:
        m.CLEARLY = float("inf")
    try:
        yield
    finally:
        for m, value in zip(modules, before, strict=True):
            m.CLEARLY = value


def factors(took: dict[str, Took], lengths: np.ndarray) -> dict[str, tuple[float, float]]:
    """Each idea's ratio of wall and of CPU time; their product is LanceDB's model time over ours.

    The last layer's part is by its FLOPs, the other parts are measured one after the other.
    """
    last = full_flops(lengths) / needed_flops(lengths)
    found = []
    for kind in ("wall", "cpu"):
        each, once, theirs, ordered, packed, ours = (
            getattr(took[n], kind) for n in ("each", "once", "theirs", "sorted", "packed", "ours")
        )
        rest = theirs - each + once
        found.append((theirs / rest, rest / ordered, ordered / packed / last, last, packed / ours))
    return dict(zip(FACTORS, zip(*found, strict=True), strict=True))


def full_flops(lengths: np.ndarray, layers: int = 6, width: int = 384) -> float:
    """FLOPs of a MiniLM-L6 whose last layer is computed for every token."""
    n = lengths.astype(float)
    return float(layers * (24 * n * width**2 + 4 * n**2 * width).sum())
