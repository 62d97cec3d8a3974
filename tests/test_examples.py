"""Each example does what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples import changed_model, custom_scorer, label_and_train, prefect_dag, train, your_table
from reranking import Pipeline
from reranking.labelling.training_answers import training_files
from reranking.order import label


def test_your_table(tmp_path: Path, cross_encoder: Path) -> None:
    results = your_table.main(tmp_path, str(cross_encoder)).to_pylist()
    assert sorted(r["doc_id"] for r in results) == ["1", "2"]
    assert [r["rank"] for r in results] == [1, 2] and all(r["_score"] for r in results)


def test_a_changed_model(tmp_path: Path, cross_encoder: Path) -> None:
    comparison = changed_model.main(tmp_path, str(cross_encoder))
    assert comparison.verdict == "cannot tell"  # three questions never give a verdict
    assert "3" in comparison.reason


def test_a_custom_scorer(tmp_path: Path) -> None:
    results = custom_scorer.main(tmp_path)
    best = {r["query_id"]: r["doc_id"] for r in results.to_pylist() if r["rank"] == 1}
    words = {q: set(text.lower().split()) for q, text in changed_model.QUESTIONS.items()}
    texts = {d: set(text.lower().split()) for d, text in changed_model.DOCUMENTS.items()}
    for query, document in best.items():
        shared = len(words[query] & texts[document])
        ranked = [r["doc_id"] for r in results.to_pylist() if r["query_id"] == query]
        assert shared == max(len(words[query] & texts[d]) for d in ranked)


def test_label_and_train(tmp_path: Path, cross_encoder: Path) -> None:
    done = label_and_train.main(tmp_path, str(cross_encoder))
    assert done["labels"]["positive"] == 3 and sum(done["rows"].values()) > 0


@pytest.mark.usefixtures("prefect_server")
def test_a_dag_of_your_own(tmp_path: Path, cross_encoder: Path) -> None:
    done = prefect_dag.main(tmp_path, str(cross_encoder))
    assert done["told"] == "0 rows were rejected"
    assert done["computed"] and done["scored"] == done["pairs"] > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_train_a_few_steps(tmp_path: Path, cross_encoder: Path) -> None:
    """From a stored run to a folder that `rerank.model_name` takes, whose scores are others."""
    pytest.importorskip("accelerate")
    config = changed_model.write_inputs(tmp_path) | {
        "rerank": {"model_name": str(cross_encoder)},
        "labels": {
            "label_set": "answers",
            "rules": [{"name": "top", "on": "score", "at_least": -100.0, "top_n": 1}],
        },
        "training": {
            "label_set": "answers",
            "positives": "labels",
            "num_negatives": 1,
            "splits": {"train": 1.0},
        },
    }
    pipeline = Pipeline(config)
    first = pipeline.run()
    label(pipeline)
    training_files(pipeline.config, None, tmp_path / "training", "labeled-pair", "parquet")
    trained = train.main(cross_encoder, tmp_path / "training", tmp_path / "out", steps=2)
    assert (trained / "model.safetensors").is_file()
    second = Pipeline(config | {"rerank": {"model_name": str(trained)}}).run()
    assert second.run_id != first.run_id and second.reranker != first.reranker
