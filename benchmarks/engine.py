"""The scoring engine against one pooled CrossEncoder.predict, and against the machine's GEMM peak.

    python benchmarks/engine.py --data DATA/scifact --pairs 300 --rounds 3

Every variant scores the same pairs in interleaved rounds; ratios are medians of per-round ratios.
The weights are the built-in reranker's with a limit of 512 tokens, so the scores rank nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from sentence_transformers import CrossEncoder

from configs.schema import Rerank
from reranking.models.resolve import resolve_model
from reranking.scoring.cpu.linears import choose_linear, single_thread
from reranking.scoring.engines import Pairs
from reranking.scoring.scorer import PairScorer

LENGTH = 512
Variant = Callable[[], np.ndarray]


def beir_pairs(folder: Path, count: int, mixed: bool) -> Pairs:
    """Random query-document pairs of a BEIR folder; mixed: documents cut or joined to lognormal
    lengths between a line and several pages."""
    queries = [json.loads(line)["text"] for line in (folder / "queries.jsonl").open()]
    rows = (json.loads(line) for line in (folder / "corpus.jsonl").open())
    documents = [f"{r.get('title', '')} {r['text']}".strip() for r in rows]
    rng = np.random.default_rng(0)
    rng.shuffle(documents)
    if mixed:
        documents = relengthened(" ".join(documents[:2000]), count, rng)
    index = np.arange(count)
    return Pairs(queries, documents[:count], rng.integers(0, len(queries), count), index)


def relengthened(text: str, count: int, rng: np.random.Generator) -> list[str]:
    """Pieces of `text` of lognormal length: 60 words in the middle, one in ten over 200."""
    words = text.split()
    sizes = np.exp(rng.normal(np.log(60), 1.0, count)).astype(int).clip(3, 1500)
    starts = rng.integers(0, len(words) - 1500, count)
    return [" ".join(words[s : s + n]) for s, n in zip(starts, sizes, strict=True)]


def timed(run: Variant) -> tuple[float, float, np.ndarray]:
    """Wall seconds, CPU seconds and the scores."""
    wall, cpu = time.perf_counter(), time.process_time()
    scores = run()
    return time.perf_counter() - wall, time.process_time() - cpu, scores


def gemm_peak(dtype: torch.dtype, tokens: int = 2048) -> float:
    """FLOPs per CPU second of the faster linear at the model's largest shape, best of many."""
    weight, bias = torch.randn(1536, 384).to(dtype), torch.randn(1536).to(dtype)
    with single_thread():
        layer = choose_linear(weight, bias, "", tokens)[0](weight, bias, "", tokens)
        x = torch.randn(tokens, 384).to(dtype)
        layer(x)
        best = min(timed(lambda: layer(x))[1] for _ in range(50))
    return 2 * tokens * 384 * 1536 / best


def needed_flops(lengths: np.ndarray, layers: int = 6, width: int = 384) -> float:
    """FLOPs that a MiniLM-L6 needs for the pairs, the last layer only for the first token."""
    n = lengths.astype(float)
    full = (layers - 1) * (24 * n * width**2 + 4 * n**2 * width)
    last = n * 4 * width**2 + 20 * width**2 + 4 * n * width
    return float((full + last).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a BEIR folder")
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precisions", nargs="+", default=["float32"])
    parser.add_argument("--batch-tokens", type=int)
    parser.add_argument("--skip-stock", action="store_true")
    args = parser.parse_args()
    folder = resolve_model("builtin:minilm-reranker").path
    stock = CrossEncoder(str(folder), max_length=LENGTH, device="cpu", local_files_only=True)
    scorers = {
        p: PairScorer.load(
            folder,
            Rerank(max_length=LENGTH, precision=p, device="cpu", batch_tokens=args.batch_tokens),
        )
        for p in args.precisions
    }
    for mixed in (False, True):
        report(args, beir_pairs(args.data, args.pairs, mixed), stock, scorers, mixed)


def report(
    args: argparse.Namespace,
    pairs: Pairs,
    stock: CrossEncoder,
    scorers: dict[str, PairScorer],
    mixed: bool,
) -> None:
    texts = [
        (pairs.queries[q], pairs.documents[d])
        for q, d in zip(pairs.query_index, pairs.document_index, strict=True)
    ]
    variants: dict[str, Variant] = (
        {} if args.skip_stock else {"predict": lambda: stock.predict(texts)}
    )
    for name, scorer in scorers.items():
        variants[name] = lambda scorer=scorer: scorer.score(
            pairs.queries, pairs.documents, pairs.query_index, pairs.document_index
        )
    engine = next(iter(scorers.values()))._engine
    lengths = engine.prepare(pairs).lengths
    rounds = [{k: timed(run) for k, run in variants.items()} for _ in range(args.rounds)]
    peaks = {n: gemm_peak(getattr(torch, s.dtype)) for n, s in scorers.items()}
    first = next(iter(variants))
    print(f"\n{'mixed' if mixed else 'as it is'}: {len(texts)} pairs, {lengths.mean():.0f} tokens")
    print("| variant | path | pairs/s | x wall | x cpu | max diff | GFLOP/s of a core | of peak |")
    print("|---|---|---|---|---|---|---|---|")
    for name in variants:
        wall = median(r[name][0] for r in rounds)
        ratios = [median(r[first][i] / r[name][i] for r in rounds) for i in (0, 1)]
        gap = float(np.abs(rounds[0][name][2] - rounds[0][first][2]).max())
        # Per CPU second, so that other load on the machine does not count as slowness.
        rate = needed_flops(lengths) / min(r[name][1] for r in rounds)
        path = scorers[name].path if name in scorers else "stock"
        share = f"{rate / peaks[name]:.0%}" if name in peaks else ""
        print(
            f"| {name} | {path} | {len(texts) / wall:.1f} | {ratios[0]:.2f} | {ratios[1]:.2f} "
            f"| {gap:.1e} | {rate / 1e9:.0f} | {share} |"
        )


if __name__ == "__main__":
    main()
