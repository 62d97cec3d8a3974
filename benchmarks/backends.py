"""What a user would pick instead on a CPU: OpenVINO and ONNX Runtime beside our engine.

    pip install openvino onnxruntime nncf onnx    # of this benchmark only
    python -m benchmarks.backends --data DATA/scifact --queries 4 --each 30

The same pairs in every variant and round, in batches of 32 sorted by length, padded; our engine as
it is. int8 is nncf's post-training quantisation (OpenVINO) and onnxruntime's dynamic one. Kendall's
tau and the overlap of the top 10 are taken query by query, against stock float32 scores.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau
from sentence_transformers import CrossEncoder

from benchmarks.engine import LENGTH, timed
from benchmarks.texts import beir, model_of_512
from configs.schema import Rerank
from reranking.scoring.cpu.choices import processor
from reranking.scoring.scorer import PairScorer

Texts = list[tuple[str, str]]
_NAMES = ("input_ids", "attention_mask", "token_type_ids")
_BATCH = 32
_CALIBRATION = 64  # pairs, other ones than those that are timed
Run = Callable[[dict[str, np.ndarray]], np.ndarray]


class Batched:
    """A backend that takes padded batches, fed as sentence-transformers feeds its own."""

    def __init__(self, stock: CrossEncoder, run: Run) -> None:
        self.stock, self.run = stock, run

    def __call__(self, texts: Texts) -> np.ndarray:
        scores = np.zeros(len(texts), np.float32)
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i][0]) - len(texts[i][1]))
        for start in range(0, len(order), _BATCH):
            at = order[start : start + _BATCH]
            scores[at] = self.run(features(self.stock, [texts[i] for i in at])).reshape(-1)
        return scores


def features(stock: CrossEncoder, texts: Sequence[tuple[str, str]]) -> dict[str, np.ndarray]:
    """A padded batch."""
    tokens = stock.tokenizer(
        [q for q, _ in texts],
        [d for _, d in texts],
        padding=True,
        truncation=True,
        max_length=LENGTH,
        return_tensors="np",
    )
    return {name: np.asarray(tokens[name], np.int64) for name in _NAMES}


def export(stock: CrossEncoder, file: Path) -> Path:
    """The model as ONNX: sentence-transformers' own export extras do not resolve beside it."""
    example = features(stock, [("a b", "c d e"), ("f", "g")])
    axes = {name: {0: "pairs", 1: "tokens"} for name in _NAMES} | {"logits": {0: "pairs"}}
    inner = stock.transformers_model
    inner.config.return_dict = False
    torch.onnx.export(
        inner,
        tuple(torch.from_numpy(example[name]) for name in _NAMES),
        str(file),
        input_names=list(_NAMES),
        output_names=["logits"],
        dynamic_axes=axes,
        dynamo=False,
    )
    inner.config.return_dict = True
    return file


def openvino_runs(stock: CrossEncoder, onnx: Path, calibration: Texts) -> dict[str, Run]:
    """OpenVINO in float32, int8 and, where the processor has it, bfloat16."""
    import nncf
    import openvino

    core, model = openvino.Core(), openvino.convert_model(str(onnx))
    data = [features(stock, calibration[i : i + 8]) for i in range(0, len(calibration), 8)]
    small = nncf.quantize(model, nncf.Dataset(data), model_type=nncf.ModelType.TRANSFORMER)

    def run(model: Any, precision: str) -> Run:
        compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})
        return lambda batch: np.asarray(compiled(batch)[0])

    runs = {"OpenVINO f32": run(model, "f32"), "OpenVINO int8": run(small, "f32")}
    if any(name in processor() for name in ("avx512_bf16", "amx_bf16")):
        runs["OpenVINO bf16"] = run(model, "bf16")
    else:
        print("OpenVINO bf16 is left out: without bf16 instructions a batch takes minutes")
    return runs


def onnx_runs(onnx: Path) -> dict[str, Run]:
    """ONNX Runtime in float32 and int8."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    small = onnx.with_name("int8.onnx")
    quantize_dynamic(onnx, small, weight_type=QuantType.QInt8)

    def run(file: Path) -> Run:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return lambda batch: np.asarray(session.run(None, batch)[0])

    return {"ONNX Runtime f32": run(onnx), "ONNX Runtime int8": run(small)}


def agreement(scores: np.ndarray, exact: np.ndarray, queries: int) -> tuple[float, float, float]:
    """Largest difference, mean Kendall's tau, mean overlap of the top 10."""
    taus, overlaps = [], []
    for own, other in zip(np.split(scores, queries), np.split(exact, queries), strict=True):
        taus.append(kendalltau(own, other).statistic)
        best = [set(np.argsort(-values, kind="stable")[:10].tolist()) for values in (own, other)]
        overlaps.append(len(best[0] & best[1]) / len(best[0]))
    return float(np.abs(scores - exact).max()), float(mean(taus)), mean(overlaps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/scifact"))
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--each", type=int, default=30, help="documents of a query")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    os.environ.setdefault("TQDM_DISABLE", "1")
    own = beir(args.data, 2000)
    rng = np.random.default_rng(5)
    asked = own.asked(0, args.queries)
    drawn = rng.integers(0, len(own.documents), (args.queries, args.each))
    texts = [(q, own.documents[d]) for q, row in zip(asked, drawn, strict=True) for d in row]
    places = rng.integers(0, len(own.documents), _CALIBRATION)
    calibration = [(own.queries[-1 - i % 50], own.documents[d]) for i, d in enumerate(places)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = model_of_512("builtin:minilm-reranker", Path(temporary) / "model")
        variants = _variants(folder, Path(temporary), calibration)
        for name, run in variants.items():
            print(f"warming up {name}: {timed(lambda run=run: run(texts[:_BATCH]))[0]:.1f} s")
        rounds = [
            {name: timed(lambda run=run: run(texts)) for name, run in variants.items()}
            for _ in range(args.rounds)
        ]
    known = [n for n in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16") if n in processor()]
    table = Table(title=f"{len(texts)} pairs of {own.name} on {', '.join(known)}")
    columns = ("backend", "pairs/s", "x torch, wall", "x torch, cpu", "max diff", "tau", "top 10")
    for column in columns:
        table.add_column(column)
    exact = rounds[0]["torch f32"][2]
    for name in variants:
        rate = len(texts) / median(r[name][0] for r in rounds)
        ratios = [median(r["torch f32"][i] / r[name][i] for r in rounds) for i in (0, 1)]
        gap, tau, overlap = agreement(rounds[0][name][2], exact, args.queries)
        cells = (f"{rate:.1f}", *(f"{r:.2f}" for r in ratios), f"{gap:.1e}", f"{tau:.3f}")
        table.add_row(name, *cells, f"{overlap:.3f}")
    Console(width=120).print(table)


def _variants(
    folder: Path, temporary: Path, calibration: Texts
) -> dict[str, Callable[[Texts], np.ndarray]]:
    stock = CrossEncoder(str(folder), max_length=LENGTH, device="cpu", local_files_only=True)
    identity = torch.nn.Identity()
    variants: dict[str, Callable[[Texts], np.ndarray]] = {
        "torch f32": lambda texts: stock.predict(texts, activation_fn=identity)
    }
    for precision in ("float32", "bfloat16"):
        scorer = PairScorer.load(folder, Rerank(device="cpu", precision=precision))
        variants[f"ours {precision}"] = _pooled(scorer)
    onnx = export(stock, temporary / "model.onnx")
    for name, run in (openvino_runs(stock, onnx, calibration) | onnx_runs(onnx)).items():
        variants[name] = Batched(stock, run)
    return variants


def _pooled(scorer: PairScorer) -> Callable[[Texts], np.ndarray]:
    def score(texts: Texts) -> np.ndarray:
        queries = list(dict.fromkeys(q for q, _ in texts))
        at = {query: i for i, query in enumerate(queries)}
        index = np.array([at[q] for q, _ in texts], np.int64)
        return scorer.score(queries, [d for _, d in texts], index, np.arange(len(texts)))

    return score


if __name__ == "__main__":
    main()
