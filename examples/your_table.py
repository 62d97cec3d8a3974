"""Rescore a table that an application has already: it is read in place and never written.

Run it with `python examples/your_table.py`; it makes a small table first, in a temporary folder.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import lancedb
import pyarrow as pa
from lancedb.index import FTS

from reranking import Pipeline

ARTICLES = [
    {"id": 1, "title": "Rivers", "body": "A river carries water from the mountains to the sea."},
    {"id": 2, "title": "Bridges", "body": "A bridge of stone crosses the river near the mill."},
    {"id": 3, "title": "Bread", "body": "Bread is baked from flour, water and a little salt."},
]
QUESTIONS = [{"query_id": "q1", "text": "how to cross a river"}]


def main(folder: Path, model: str = "builtin:minilm-reranker") -> pa.Table:
    """Search the application's table by its full-text index, rerank, and return the results."""
    database = str(folder / "app.lancedb")
    table = lancedb.connect(database).create_table("articles", data=pa.Table.from_pylist(ARTICLES))
    table.create_index("body", config=FTS())
    questions = folder / "questions.jsonl"
    questions.write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))

    pipeline = Pipeline(
        {
            "database": database,
            "documents": {"table": "articles", "managed": False, "id": "id", "text": "body"},
            "queries": {"query_set": "faq", "source": {"format": "jsonl", "path": str(questions)}},
            "search": {"query_types": ["fts"], "limit": 10},
            "rerank": {"model_name": model, "return_score": "all"},
        }
    )
    return pipeline.run().results()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        print(main(Path(temporary)).to_pandas())  # noqa: T201 - an example shows what it did
