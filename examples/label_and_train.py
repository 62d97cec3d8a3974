"""Label a finished run's pairs and write training data in sentence-transformers' formats."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from examples.changed_model import write_inputs
from reranking import Pipeline
from reranking.labelling.training_answers import training_files
from reranking.order import label


def main(folder: Path, model: str = "builtin:minilm-reranker") -> dict[str, Any]:
    """Run, label by a rule on the score, export (query, passage, label) rows; what was written."""
    rule = {"name": "top", "on": "score", "at_least": -100.0, "top_n": 1}
    config = write_inputs(folder) | {
        "rerank": {"model_name": model},
        "labels": {"label_set": "answers", "rules": [rule]},
        "training": {"label_set": "answers", "positives": "labels", "num_negatives": 1},
    }
    pipeline = Pipeline(config)
    pipeline.run()
    labels = label(pipeline)
    written = training_files(pipeline.config, None, folder / "training", "labeled-pair", "jsonl")
    return {"labels": labels["labels"], "rows": written["rows"]}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        print(main(Path(temporary)))  # noqa: T201 - an example shows what it did
