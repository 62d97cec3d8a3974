"""ModernBERT's packed path against one pooled CrossEncoder.predict: a part of `make bench`.

    python -m benchmarks.modernbert --pairs 64 --rounds 3

Layouts of Ettin's 17m and gte-reranker-modernbert's 150m with random weights, on mixed lengths.
Ratios are medians of per-round ratios; with other work on the machine read that of CPU times.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path
from statistics import median

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from sentence_transformers import CrossEncoder
from transformers import ModernBertConfig, ModernBertForSequenceClassification

from benchmarks.engine import LENGTH, beir_pairs, timed
from configs.schema import Rerank
from reranking.models.resolve import resolve_model
from reranking.scoring.cpu.choices import processor
from reranking.scoring.engines import Pairs
from reranking.scoring.scorer import PairScorer

LAYOUTS = {
    "17m": {"hidden_size": 256, "num_hidden_layers": 7, "num_attention_heads": 4},
    "150m": {"hidden_size": 768, "num_hidden_layers": 22, "num_attention_heads": 12},
}
_INNER = {"17m": 384, "150m": 1152}
_TARGETS = {"avx512f": 2.5, "avx2": 1.4}  # the first that the processor has


def model_of(layout: str, folder: Path) -> Path:
    """A model of the layout with random weights and the built-in reranker's tokenizer."""
    shutil.copytree(resolve_model("builtin:minilm-reranker").path, folder)
    (folder / "model.safetensors").unlink()
    torch.manual_seed(0)
    config = ModernBertConfig(
        **LAYOUTS[layout],
        intermediate_size=_INNER[layout],
        vocab_size=30522,
        num_labels=1,
        pad_token_id=0,
        cls_token_id=101,
        sep_token_id=102,
        bos_token_id=101,
        eos_token_id=102,
        reference_compile=False,
    )
    ModernBertForSequenceClassification(config).save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    changed = {"model_max_length": LENGTH, "model_input_names": ["input_ids", "attention_mask"]}
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/scifact"))
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layouts", nargs="+", default=list(LAYOUTS), choices=LAYOUTS)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    os.environ.setdefault("TQDM_DISABLE", "1")
    able = processor().lower().split()
    target = next((t for name, t in _TARGETS.items() if name in able), None)
    known = [name for name in (*_TARGETS, "avx512_bf16", "amx_tile") if name in able]
    table = Table(title=f"ModernBERT on {', '.join(known) or 'an unknown processor'}")
    for column in ("layout", "path", "pairs/s", "x wall", "x cpu", "target", "max diff"):
        table.add_column(column)
    pairs = beir_pairs(args.data, args.pairs, mixed=True)
    index = zip(pairs.query_index, pairs.document_index, strict=True)
    texts = [(pairs.queries[q], pairs.documents[d]) for q, d in index]
    identity = torch.nn.Identity()
    for layout in args.layouts:
        with tempfile.TemporaryDirectory() as temporary:
            folder = model_of(layout, Path(temporary) / "model")
            stock = CrossEncoder(str(folder), max_length=LENGTH, device="cpu")
            scorer = PairScorer.load(folder, Rerank(device="cpu", precision="float32"))
        rounds = [
            (
                timed(lambda s=stock: s.predict(texts, activation_fn=identity)),
                timed(lambda s=scorer: s.score(pairs.queries, pairs.documents, *_of(pairs))),
            )
            for _ in range(args.rounds)
        ]
        wall, cpu = (median(theirs[i] / ours[i] for theirs, ours in rounds) for i in (0, 1))
        rate = len(texts) / median(ours[0] for _, ours in rounds)
        gap = float(np.abs(rounds[0][0][2] - rounds[0][1][2]).max())
        wanted = "none known" if target is None else f">= {target}"
        cells = (f"{rate:.1f}", f"{wall:.2f}", f"{cpu:.2f}", wanted, f"{gap:.1e}")
        table.add_row(layout, scorer.path, *cells)
    Console(width=120).print(table)


def _of(pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    return pairs.query_index, pairs.document_index


if __name__ == "__main__":
    main()
