"""What does another model change? Run, promote, run the other one, compare."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from reranking import Comparison, Pipeline

DOCUMENTS = {
    "d1": "A river carries water from the mountains to the sea.",
    "d2": "A bridge of stone crosses the river near the mill.",
    "d3": "Bread is baked from flour, water and a little salt.",
    "d4": "The mill grinds flour from wheat.",
}
QUESTIONS = {"q1": "how to cross a river", "q2": "what is bread made of", "q3": "who grinds flour"}
JUDGED = {("q1", "d2"): 2, ("q1", "d1"): 1, ("q2", "d3"): 2, ("q3", "d4"): 2}


def write_inputs(folder: Path) -> dict[str, Any]:
    """Write documents, questions and judgments into the folder; the config that reads them."""
    _write(folder / "documents.jsonl", [{"doc_id": i, "text": t} for i, t in DOCUMENTS.items()])
    _write(folder / "questions.jsonl", [{"query_id": i, "text": t} for i, t in QUESTIONS.items()])
    lines = [f"{query} 0 {doc} {grade}\n" for (query, doc), grade in JUDGED.items()]
    (folder / "judgments.qrels").write_text("".join(lines))
    return {
        "database": str(folder / "example.lancedb"),
        "documents": {"source": {"format": "jsonl", "path": str(folder / "documents.jsonl")}},
        "queries": {
            "query_set": "faq",
            "source": {"format": "jsonl", "path": str(folder / "questions.jsonl")},
        },
        "search": {"query_types": ["fts"], "limit": 10},
        "judgments": {
            "judgment_list": "faq",
            "source": {"format": "trec", "path": str(folder / "judgments.qrels")},
        },
    }


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row | {"vector": [1.0, 0.0]}) + "\n" for row in rows))


def main(
    folder: Path, model: str = "builtin:minilm-reranker", other: str | None = None
) -> Comparison:
    """Compare the run of `other` (None: no reranker at all) with the promoted run of `model`."""
    config = write_inputs(folder)
    today = Pipeline(config | {"rerank": {"model_name": model}}).run()
    today.promote("production")
    rerank = None if other is None else {"model_name": other}
    tomorrow = Pipeline(config | {"rerank": rerank}).run()
    return tomorrow.compare("production")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        comparison = main(Path(temporary))
        print(comparison.verdict, comparison.reason)  # noqa: T201 - an example shows what it did
