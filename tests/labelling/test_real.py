"""Labels and mining with the built-in reranker on real judgments: wide intervals, no surprises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from flows.cli import app
from tests.conftest import real_data
from tests.support import tiny
from tests.support.walk import walk_file

pytestmark = pytest.mark.slow


def told(*arguments: object) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*(str(a) for a in arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def write(folder: Path, config: dict[str, Any]) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


@pytest.fixture(scope="module")
def health(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over health questions with grades 0-3."""
    source = {"format": "beir", "path": str(real_data("liveqa_med")), "split": "test"}
    config = write(
        tmp_path_factory.mktemp("health"),
        {
            "database": "db.lancedb",
            "documents": {
                "source": {"format": "beir", "path": source["path"]},
                "encoder": {"model": "builtin:all-MiniLM-L6-v2"},
            },
            "queries": {"query_set": "health", "source": source},
            "search": {"limit": 20},
            "rerank": {"model_name": "builtin:minilm-reranker"},
            "judgments": {"judgment_list": "nlm", "source": source},
            "labels": {
                "label_set": "answers",
                "relevant": 2,
                "target_precision": 0.9,
                "rules": [
                    {"name": "likely", "at_least": 0.5},
                    {"name": "graded", "on": "score", "grades": [-2.0, 0.0, 1.0]},
                ],
                "apply": "likely",
            },
        },
    )
    walk_file(config)
    return config


def test_scores_become_probabilities_that_hold(health: Path) -> None:
    found = told("label", health, "--compare")
    quality = found["calibration"]
    assert quality["calibrated"] and quality["judged"] > 250
    assert quality["brier"] < quality["base_brier"]
    assert quality["ece"] < 0.15
    for one in quality["bins"]:
        assert one["low"] <= one["observed"] <= one["high"]


def test_a_high_goal_is_said_to_be_out_of_reach(health: Path) -> None:
    goal = told("label", health, "--compare")["goal"]
    assert not goal["reached"] and "not demonstrable with" in goal["statement"]
    changes = ["labels.relevant=1", "labels.target_precision=0.7"]
    easier = told("label", health, "--compare", *(p for c in changes for p in ("--set", c)))
    assert easier["goal"]["reached"] and "precision" in easier["goal"]["statement"]


def test_graded_labels_agree_with_people_beyond_chance(health: Path) -> None:
    run = told("label", health, "--compare")["run_id"]
    sides = [f"run:{run}", "judgments:nlm", "--set", "labels.apply=graded"]
    found = told("agreement", health, *sides)
    kappa = found["kappa_quadratic"]
    assert 0 < kappa["low"] < kappa["value"] < kappa["high"] < 1
    assert found["alpha_ordinal"]["value"] == pytest.approx(kappa["value"], abs=0.15)
    assert {row["right"] for row in found["confusion"]} == {0, 1, 2, 3}


@pytest.fixture(scope="module")
def claims(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished BM25 run over 60 claims, judged relevant only."""
    source, folder = real_data("scifact"), tmp_path_factory.mktemp("claims")
    qrels = [line.split("\t") for line in (source / "qrels/train.tsv").read_text().splitlines()]
    wanted = set(sorted({row[0] for row in qrels[1:]})[:60])
    lines = (source / "corpus.jsonl").read_text("utf-8").splitlines()
    documents = [json.loads(line) for line in lines]
    tiny.write_jsonl(
        folder / "documents.jsonl",
        [
            {"doc_id": d["_id"], "text": f"{d['title']} {d['text']}", "vector": [1.0, 0.0]}
            for d in documents
        ],
    )
    lines = (source / "queries.jsonl").read_text("utf-8").splitlines()
    queries = [json.loads(line) for line in lines]
    tiny.write_jsonl(folder / "queries.jsonl", [q for q in queries if q["_id"] in wanted])
    (folder / "qrels.txt").write_text(
        "".join(f"{q} 0 {d} {grade}\n" for q, d, grade in qrels if q in wanted)
    )
    config = tiny.write_config(
        folder,
        Path("builtin:minilm-reranker"),
        queries={
            "query_set": "claims",
            "source": {
                "format": "jsonl",
                "path": "queries.jsonl",
                "columns": {"query_id": "_id"},
            },
        },
        search={"query_types": ["fts"], "limit": 10},
        rerank={"model_name": "builtin:minilm-reranker"},
        judgments={
            "judgment_list": "claims",
            "source": {"format": "trec", "path": "qrels.txt"},
        },
        labels={"label_set": "abstracts", "rules": [{"name": "likely", "at_least": 0.5}]},
    )
    walk_file(config)
    return config


def test_positives_alone_allow_no_calibration(claims: Path) -> None:
    found = told("label", claims, "--compare", "--set", "labels.target_precision=0.5")
    assert "none shows what a miss scores" in found["calibration"]["reason"]
    assert not found["goal"]["reached"] and "all of them are relevant" in found["goal"]["statement"]
    assert found["rules"][0]["conditions"]["on"] == "score"


def test_a_margin_lowers_the_risk_of_false_negatives(claims: Path, tmp_path: Path) -> None:
    bold = told("mine", claims)
    careful = told("mine", claims, "--set", "training.absolute_margin=2.0")
    assert careful["dropped"]["absolute_margin"] > 0
    assert careful["negatives"] < bold["negatives"]
    folder = tmp_path / "data"
    wrote = told("export-training", claims, "--out", folder, "--format", "n-tuple")
    rows = pl.read_parquet(folder / "train.parquet")
    assert rows.columns == ["query", "positive", "negative_1", "negative_2", "negative_3"]
    assert len(rows) == wrote["rows"]["train"] > 30
