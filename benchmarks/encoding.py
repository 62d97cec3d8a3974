"""Documents encoded as an ingest does it, beside a loop of `SentenceTransformer.encode`.

    python -m benchmarks.encoding --data ../shared/data

The loop encodes row batches in the order of the source, with the model's own batch size. Ours is
what an ingest calls: a window of rows, longest first. Texts are pieces of BEIR texts of mixed
length. Ratios are taken within a round; medians are printed, by the clock and by CPU time.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pipeline import Took
from benchmarks.texts import beir, mixed
from configs.documents import Encoder
from reranking.models.builtin import ENCODER
from reranking.scoring.encoder import SentenceEncoder

STEP = 512  # texts that an ingest hands over at once
ASKED = 2.0


def main() -> None:
    """Measure and print both sides."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of BEIR folders")
    parser.add_argument("--texts", nargs="+", default=["scifact", "tldr"])
    parser.add_argument("--model", default=ENCODER)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=64, help="rows a batch of the loop")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    encoder = SentenceEncoder(Encoder(model=options.model))
    known = [beir(options.data / name, 5_000) for name in options.texts]
    texts = mixed(known, options.documents * options.rounds).documents
    encoder.encode_documents(texts[:64])  # loads the model
    rounds = [
        one_round(encoder, texts[i * options.documents :][: options.documents], options.batch, i)
        for i in range(options.rounds)
    ]
    ours, theirs, gaps = zip(*rounds, strict=True)
    ratios = [t.over(o) for t, o in zip(theirs, ours, strict=True)]
    for name, side in (("ingest", ours), ("loop", theirs)):
        rate = options.documents / statistics.median(t.wall for t in side)
        cpu = options.documents / statistics.median(t.cpu for t in side)
        print(f"{name:8} {rate:8.1f} documents/s, {cpu:8.1f} a CPU second")
    clock, cpu = (statistics.median(r[at] for r in ratios) for at in (0, 1))
    print(f"ratio    {clock:.2f} by the clock, {cpu:.2f} by CPU time (at least {ASKED:g})")
    print(f"largest difference of a number: {max(gaps):.1e}")


def one_round(
    encoder: SentenceEncoder, texts: list[str], batch: int, turn: int
) -> tuple[Took, Took, float]:
    """What each side took, whichever is first in turn, and how far their vectors are apart."""
    took = {"ours": Took(), "theirs": Took()}
    made: dict[str, Any] = {}
    for side in sorted(took, reverse=turn % 2 == 1):
        with took[side]:
            if side == "ours":
                order = sorted(range(len(texts)), key=lambda i: len(texts[i]), reverse=True)
                parts = [
                    encoder.encode_documents([texts[i] for i in order[s : s + STEP]])
                    for s in range(0, len(order), STEP)
                ]
                made[side] = np.concatenate(parts)[np.argsort(order)]
            else:
                parts = [
                    encoder._model.encode(texts[s : s + batch], show_progress_bar=False)
                    for s in range(0, len(texts), batch)
                ]
                made[side] = np.concatenate(parts)
    return took["ours"], took["theirs"], float(np.abs(made["ours"] - made["theirs"]).max())


if __name__ == "__main__":
    main()
