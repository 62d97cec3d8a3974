"""Equal scores: a ranking that rests on the order of ids is told to, in measures and verdicts."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from flows.cli import app
from reranking.evaluation.array_measures import array_measure
from reranking.evaluation.measures import parse_measures
from reranking.evaluation.sweep.pool import Pool, make_pool
from reranking.evaluation.sweep.settings import Setting
from reranking.evaluation.ties import ties
from reranking.runs.listing import find_run
from reranking.runs.run import Run
from tests.support import judged
from tests.support.walk import walk_file

VECTOR = Setting("vector", 10, reranked=True)


def pool(logits: list[float], grades: list[int]) -> Pool:
    n = len(logits)
    rows = pl.DataFrame(
        {
            "query_id": ["q"] * n,
            "doc_id": [f"d{i}" for i in range(n)],
            "vector_rank": list(range(1, n + 1)),
            "_distance": [0.1 * i for i in range(n)],
            "fts_rank": pl.Series([None] * n, dtype=pl.Int32),
            "_score": pl.Series([None] * n, dtype=pl.Float32),
            "logit": logits,
        }
    )
    judgments = pl.DataFrame({"query_id": ["q"] * n, "doc_id": rows["doc_id"], "relevance": grades})
    return make_pool(rows, judgments, ["q"], np.ones((n, 2)))


@pytest.mark.parametrize("name", ["nDCG@2", "RR@3", "P@2", "AP@5"])
def test_the_mean_is_that_of_all_orders(name: str) -> None:
    """Two of five scores differ; the three equal ones can stand in six orders."""
    logits, grades = [3.0, 1.0, 1.0, 1.0, 0.5], [0, 1, 0, 2, 1]
    [measure] = parse_measures([name])
    cutoff = measure.params["cutoff"]
    found = ties(pool(logits, grades), VECTOR, name, array_measure(measure), cutoff)
    ideal = np.array([sorted(grades, reverse=True)])
    values = [
        float(array_measure(measure)(np.array([[grades[i] for i in (0, *middle, 4)]]), ideal)[0])
        for middle in itertools.permutations((1, 2, 3))
    ]
    assert (found.low, found.high) == pytest.approx((min(values), max(values)))
    assert found.expected == pytest.approx(np.mean(values), abs=0.08)
    assert found.by_id == pytest.approx(values[0])
    assert found.at_cut == (1 if cutoff in (2, 3) else 0)


def test_without_ties_nothing_is_in_doubt() -> None:
    [measure] = parse_measures(["nDCG@10"])
    found = ties(pool([3.0, 2.0, 1.0], [0, 1, 1]), VECTOR, "nDCG@10", array_measure(measure), 10)
    assert found.by_id == found.expected == found.low == found.high and not found.matter


@pytest.fixture(scope="module")
def constant(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> tuple[Path, Run]:
    """A run of a scorer that gives every pair 1.0, on judgments that follow the ids."""
    folder = tmp_path_factory.mktemp("constant")
    config = judged.collection(folder, cross_encoder)
    with pytest.MonkeyPatch.context() as patch:
        judged.use_scorer(patch, lambda query, document: 1.0)
        run = walk_file(config)[0]
        by_id: dict[str, set[str]] = {}
        for row in run.results().to_pylist():
            by_id.setdefault(row["query_id"], set()).add(row["doc_id"])
        judged.judge(folder, {q: sorted(docs) for q, docs in by_id.items()}, judged=99)
        run = walk_file(config)[0]
    return config, find_run(run.database, run.run_id)


def test_a_constant_scorer_is_exposed(constant: tuple[Path, Run]) -> None:
    config, run = constant
    told = CliRunner().invoke(app, ["evaluate", str(config), "--json"])
    values = json.loads(told.stdout.splitlines()[-1])
    rows = {(r["query_type"], r["stage"]): r for r in values["ties"]}
    hybrid = rows["hybrid", "reranked"]
    assert hybrid["by_id"] > 0.9 and hybrid["expected"] < 0.5 and hybrid["matter"]
    assert hybrid["at_cut"] == hybrid["queries"] == 40
    means = {m["query_type"]: m for m in values["measures"] if m["measure"] == "nDCG@10"}
    assert means["hybrid"]["reranked"] == pytest.approx(hybrid["by_id"])
    shown = CliRunner().invoke(app, ["evaluate", str(config)])
    assert "ties, hybrid reranked: 40 of 40 queries have equal scores" in shown.output


def test_its_victory_is_withdrawn(constant: tuple[Path, Run]) -> None:
    _, run = constant
    made = run.compare(f"{run.run_id}:first")
    assert made.verdict == "cannot tell"
    assert made.reason.startswith("equal scores decide: +0.") and "in random order" in made.reason
    assert any("40 of 40 queries have equal scores" in text for text in made.ties)
