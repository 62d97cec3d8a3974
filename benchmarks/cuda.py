"""The engine on a CUDA device: pairs per second, share of peak FLOP/s, time spent waiting."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.engine import LENGTH, needed_flops
from benchmarks.texts import Texts
from configs.schema import Rerank
from reranking.scoring.engines import Pairs
from reranking.scoring.scorer import PairScorer

PER_QUERY = 100  # pairs of a query, as a hybrid search with limit 50 finds them


def on_device(texts: Texts, model: Path, device: str, pairs: int) -> dict[str, Any]:
    """Figures of the precision that `auto` takes there, and the gap to float32 on a few pairs."""
    scorer = PairScorer.load(model, Rerank(max_length=LENGTH, precision="auto", device=device))
    given = _pairs(texts, pairs)
    few = Pairs(
        given.queries, given.documents, given.query_index[:2000], given.document_index[:2000]
    )
    exact = PairScorer.load(model, Rerank(max_length=LENGTH, precision="float32", device=device))
    gap = float(np.abs(_score(scorer, few) - _score(exact, few)).max())  # a warm-up as well
    walls = [_seconds(scorer, given) for _ in range(3)]
    busy, profiled = _busy_seconds(scorer, given)
    lengths = scorer._engine.prepare(given).lengths
    wall = sorted(walls)[1]
    peak = gemm_peak(device, getattr(torch, scorer.dtype))
    return {
        "text": texts.name,
        "device": torch.cuda.get_device_name(device) if device != "cpu" else device,
        "path": scorer.path,
        "dtype": scorer.dtype,
        "pairs": pairs,
        "tokens": float(lengths.mean()),
        "pairs_per_second": pairs / wall,
        "flops": needed_flops(lengths) / wall,
        "gemm_peak": peak,
        "share_of_peak": needed_flops(lengths) / wall / peak,
        "waiting": 1 - busy / profiled,
        "largest_gap_to_float32": gap,
    }


def _pairs(texts: Texts, count: int) -> Pairs:
    """Each query with PER_QUERY documents drawn at random."""
    rng = np.random.default_rng(3)
    queries = texts.asked(0, -(-count // PER_QUERY))
    document = rng.integers(0, len(texts.documents), count)
    return Pairs(queries, texts.documents, np.arange(count) // PER_QUERY, document)


def _score(scorer: PairScorer, pairs: Pairs) -> np.ndarray:
    return scorer.score(pairs.queries, pairs.documents, pairs.query_index, pairs.document_index)


def _seconds(scorer: PairScorer, pairs: Pairs) -> float:
    began = time.perf_counter()
    _score(scorer, pairs)
    return time.perf_counter() - began


def _busy_seconds(scorer: PairScorer, pairs: Pairs) -> tuple[float, float]:
    """Seconds in which a kernel ran, and of the whole pass, tokenising included, while profiled.

    The engine uses one stream, so kernels do not overlap.
    """
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        wall = _seconds(scorer, pairs)
    kernels = (e for e in found.events() if e.device_type == DeviceType.CUDA)
    busy = sum(e.time_range.elapsed_us() for e in kernels if "Memcpy" not in e.name)
    return busy / 1e6, wall


def gemm_peak(device: str, dtype: torch.dtype, size: int = 8192) -> float:
    """FLOP/s of a large square product, best of twenty."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(20):
        torch.cuda.synchronize(device)
        began = time.perf_counter()
        torch.matmul(a, b)
        torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best
