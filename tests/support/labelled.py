"""A finished run of tiny models with judgments that follow its scores, for tests of labelling."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from reranking.arrow import frame
from reranking.labelling.scored import ScoredRun
from reranking.runs.run import Run
from tests.support import tiny
from tests.support.walk import walk_file

RULES = [
    {"name": "half", "at_least": 0.5},
    {"name": "sure", "at_least": 0.8, "unsure": [0.2, 0.8]},
    {"name": "best-two", "on": "score", "top_n": 2},
    {"name": "both", "on": "score", "both_legs": True},
]


def asked(count: int = 30) -> list[str]:
    rng = np.random.default_rng(5)
    return [f"{tiny.sentence(rng, 2, 4)} {i}" for i in range(count)]


def write_folder(folder: Path, model: Path, **changes: Any) -> Path:
    """Documents, queries and a config with labels; the config.

    Documents and queries are named by absolute paths, so that a copy of the folder is the same
    pipeline; judgments are the copy's own.
    """
    tiny.write_jsonl(folder / "documents.jsonl", tiny.documents(400))
    tiny.write_jsonl(folder / "queries.jsonl", tiny.queries(asked()))
    (folder / "judgments.tsv").write_text("q000 0 d000 0\n")
    settings = {
        "documents__source__path": str(folder / "documents.jsonl"),
        "queries__source__path": str(folder / "queries.jsonl"),
        "search__chunk_queries": 8,
        "judgments": {
            "judgment_list": "j",
            "source": {"format": "trec", "path": "judgments.tsv"},
            "measures": ["nDCG@10"],
            "rater": "gold",
        },
        "labels": {"label_set": "answers", "rules": RULES, "apply": "half"},
        "training": {"relevant": 2},  # few enough that queries do not all share an answer
    }
    return tiny.write_config(folder, model, **(settings | changes))


def judge_by_score(path: Path, pairs: pl.DataFrame, seed: int = 3) -> None:
    """Write graded qrels: the higher the score, the likelier a relevant grade."""
    rng = np.random.default_rng(seed)
    score = pairs["score"].to_numpy()
    spread = (score - np.median(score)) / score.std()
    relevant = rng.random(len(score)) < 1 / (1 + np.exp(-3 * spread))
    grades = relevant * (1 + (spread > 0.5))
    rows = zip(pairs["query_id"], pairs["doc_id"], grades, strict=True)
    path.write_text("".join(f"{query} 0 {doc} {grade}\n" for query, doc, grade in rows))


def finished(config: Path, *overrides: str) -> Run:
    """A finished run whose pairs are judged, three in four of them."""
    run, _ = walk_file(config, *overrides)
    pairs = scored(run)
    judge_by_score(config.parent / "judgments.tsv", pairs.sample(fraction=0.75, seed=1))
    return walk_file(config, *overrides)[0]


def scored(run: Run) -> pl.DataFrame:
    """The run's scored pairs."""
    return frame(ScoredRun(run).pairs())


def copied(config: Path, to: Path) -> Path:
    """A copy of the config's folder, database included; its config."""
    shutil.copytree(config.parent, to / "copy")
    return to / "copy" / config.name
