"""The whole job against LanceDB's own loop: `make bench`; benchmarks/README.md explains it.

python -m benchmarks.rerank --data ../shared/data --rounds 3 --json bench.json
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console

from benchmarks import tables
from benchmarks.cuda import on_device
from benchmarks.engine import gemm_peak, needed_flops
from benchmarks.ladder import Ladder, factors
from benchmarks.large import large
from benchmarks.pipeline import ALL, Done, Side, Theirs, Took, keep_models_loaded
from benchmarks.texts import Texts, beir, mixed, model_of_512

Scores = dict[tuple[str, str, str], float]


class Rounds:
    """All rounds over one text, and what follows from them."""

    def __init__(self, side: Side, theirs: Theirs, ladder: Ladder, peak: dict[str, float]) -> None:
        self.side, self.theirs, self.ladder, self.peak = side, theirs, ladder, peak
        self.took: list[dict[str, Took]] = []
        self.factors: list[dict[str, tuple[float, float]]] = []
        self.shares: list[tuple[float, float]] = []
        self.gaps: list[float] = []
        self.overlaps: list[float] = []
        self.real: list[float] = []
        self.saved: list[float] = []
        self.pairs: list[int] = []
        self.tokens: list[float] = []
        self.stages: list[dict[str, float]] = []

    def round(self, number: int, size: int) -> None:
        """Every variant once on the same queries; every other round in the opposite order."""
        queries = self.side.texts.asked(number * size, size)
        ours: dict[str, Done] = {}
        found: dict[str, Scores] = {}
        took: dict[str, Took] = {}

        def loop(query_type: str) -> None:
            took[f"loop {query_type}"], scores = self.theirs.loop(self.side, queries, query_type)
            found.setdefault("theirs", {}).update(scores)
            if query_type == "hybrid":
                took["theirs"] = self.theirs.inside

        def run(name: str, **rerank: Any) -> None:
            ours[name] = self.side.run(queries, **rerank)
            took[f"run {name}"] = ours[name].took

        _in_turn(
            number,
            lambda: run("hybrid", precision="float32"),
            lambda: loop("hybrid"),
            lambda: run("three", precision="float32", query_types=list(ALL)),
            lambda: [loop(t) for t in ("vector", "fts")],
            lambda: run("half", precision="bfloat16"),
        )
        took["ours"] = ours["hybrid"].model
        self.stages.append(ours["hybrid"].seconds)
        self._steps(number, queries, took)
        self.took.append(took)
        self.gaps.append(_gap(ours["three"].scores, found["theirs"]))
        self.overlaps.append(_overlap(ours["half"].scores, ours["hybrid"].scores))

    def _steps(self, number: int, queries: list[str], took: dict[str, Took]) -> None:
        """The engine's steps on the pairs of the runs just done, and what follows from them."""
        pairs = self.side.pairs(queries)
        texts = [
            (queries[q], pairs.documents[d])
            for q, d in zip(pairs.query_index, pairs.document_index, strict=True)
        ]

        def predict() -> None:
            with Took() as took["predict"]:
                self.theirs.predict(texts, batch_size=32, show_progress_bar=False)

        def step(name: str) -> None:
            took[name] = self.ladder.step(name, pairs)

        _in_turn(number, predict, lambda: step("sorted"), lambda: step("packed"))
        took["each"], took["once"], real = self.ladder.tokenising(pairs)
        lengths = self.ladder.lengths(pairs)
        self.factors.append(factors(took, lengths))
        self.peak["flops"] = max(self.peak.get("flops", 0.0), gemm_peak(torch.float32))
        flops = needed_flops(lengths)
        self.shares.append((flops / took["ours"].wall / _cores(), flops / took["ours"].cpu))
        legs = self.side.candidates.select("vector_rank", "fts_rank").count().row(0)
        self.saved.append((sum(legs) + len(self.side.candidates)) / len(texts))
        self.real.append(real)
        self.pairs.append(len(texts))
        self.tokens.append(float(lengths.mean()))

    def results(self) -> dict[str, Any]:
        """Medians over the rounds; ratios are (of wall time, of CPU time)."""
        loops = [f"loop {t}" for t in ALL]
        medians = {n: _medians([f[n] for f in self.factors]) for n in self.factors[0]}
        product = tuple(float(np.prod([v[i] for v in medians.values()])) for i in (0, 1))
        hybrid = self._ratio(["loop hybrid"], "run hybrid")
        return {
            "pairs": sum(self.pairs),
            "tokens": median(self.tokens),
            "real_tokens_of_padded": median(self.real),
            "hybrid": hybrid,
            "hybrid_of_product": tuple(h / p for h, p in zip(hybrid, product, strict=True)),
            "three": self._ratio(loops, "run three"),
            "half": self._ratio(["loop hybrid"], "run half"),
            "predict": self._ratio(["predict"], "ours"),
            "share_of_peak": tuple(s / self.peak["flops"] for s in _medians(self.shares)),
            "gap": max(self.gaps),
            "overlap": float(np.mean(self.overlaps)),
            "factors": medians,
            "product": product,
            "de-duplication": median(self.saved),
            "outside_seconds": {n: median(s[n] for s in self.stages) for n in self.stages[0]},
            "pairs_per_second": {
                name: median(p / t[name].wall for p, t in zip(self.pairs, self.took, strict=True))
                for name in ("loop hybrid", "predict", "ours", "run hybrid", "run half")
            },
        }

    def _ratio(self, above: list[str], below: str) -> tuple[float, float]:
        """Of the times of `above` together over that of `below`, round by round."""
        return _medians([sum((t[n] for n in above), Took()).over(t[below]) for t in self.took])


def _in_turn(number: int, *calls: Callable[[], object]) -> None:
    for call in calls if number % 2 == 0 else calls[::-1]:
        call()


def _medians(values: list[tuple[float, float]]) -> tuple[float, float]:
    return median(v[0] for v in values), median(v[1] for v in values)


def _cores() -> int:
    return torch.get_num_threads()


def _gap(ours: Scores, theirs: Scores) -> float:
    """Largest difference where both have the row; raises where most rows are not shared."""
    shared = ours.keys() & theirs.keys()
    if len(shared) < 0.9 * max(len(ours), len(theirs)):
        raise RuntimeError(f"only {len(shared)} of {len(ours)} rows are LanceDB's as well")
    return max(abs(ours[key] - theirs[key]) for key in shared)


def _overlap(some: Scores, others: Scores, k: int = 10) -> float:
    """Mean share of a query's top k that both have."""
    tops: list[dict[str, set[str]]] = []
    for scores in (some, others):
        tops.append({})
        for (_, query, doc), _score in sorted(scores.items(), key=lambda item: -item[1]):
            mine = tops[-1].setdefault(query, set())
            if len(mine) < k:
                mine.add(doc)
    return float(np.mean([len(tops[0][q] & tops[1][q]) / len(tops[1][q]) for q in tops[1]]))


def measure(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """All figures on a CPU."""
    keep_models_loaded()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = model_of_512(args.model, folder / "model")
        texts = _texts(args)
        theirs, ladder = Theirs(model, "cpu"), Ladder(model, "cpu")
        peak: dict[str, float] = {}
        found: dict[str, Any] = {}
        for of in texts:
            side = Side(of, model, folder, "cpu", args.limit)
            for precision in ("float32", "bfloat16"):
                side.run(of.asked(0, 1), precision=precision)  # loads the model, warms up
            theirs.loop(side, of.asked(0, 1), "hybrid")
            rounds = Rounds(side, theirs, ladder, peak)
            for number in range(args.rounds):
                rounds.round(number, args.queries)
                console.print(f"{of.name}: round {number + 1} of {args.rounds}", style="dim")
            found[of.name] = rounds.results()
        job = None
        if args.large:
            console.print(f"a job of {args.large:,} pairs", style="dim")
            chosen = next((t for t in texts if t.name == args.large_text), texts[0])
            job = large(chosen, model, "cpu", args.large)
        return {"texts": found, "large": job, "peak": peak}


def measure_cuda(args: argparse.Namespace) -> dict[str, Any]:
    """The engine's figures on a device."""
    with tempfile.TemporaryDirectory() as temporary:
        model = model_of_512(args.model, Path(temporary) / "model")
        texts = _texts(args)
        return {"device": [on_device(t, model, args.device, args.device_pairs) for t in texts]}


def _texts(args: argparse.Namespace) -> list[Texts]:
    real = [beir(args.data / name, args.documents) for name in args.texts]
    return [*real, mixed(real, args.documents)]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, default=Path("../shared/data"), help="folder of BEIR folders")
    add("--texts", nargs="+", default=["scifact", "tldr"], help="which of them")
    add("--model", default="builtin:minilm-reranker", help="a BERT with 512 positions")
    add("--documents", type=int, default=1500, help="documents of each text")
    add("--queries", type=int, default=4, help="queries of a round")
    add("--limit", type=int, default=25, help="hits of each leg")
    add("--rounds", type=int, default=3)
    add("--large", type=int, default=10_000, help="pairs of the larger job; 0: none")
    add("--large-text", default="tldr", help="its text")
    add("--device", default="cpu", help="cpu: everything; cuda or cuda:N: the engine on it")
    add("--device-pairs", type=int, default=200_000, help="pairs with --device cuda")
    add("--json", type=Path, help="write the figures to this file")
    return parser.parse_args()


def main() -> None:
    args = _arguments()
    logging.disable(logging.WARNING)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    console = Console() if Console().is_terminal else Console(width=120)
    found = measure(args, console) if args.device == "cpu" else measure_cuda(args)
    for table in tables.of(found):
        console.print(table)
    if args.json:
        given = {k: v for k, v in vars(args).items() if k not in ("json", "data")}
        args.json.write_text(json.dumps({"arguments": given, **found}, indent=1))


if __name__ == "__main__":
    main()
