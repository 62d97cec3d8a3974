"""A folder to kill processes on, and what an undisturbed run leaves in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from tests.support import tiny
from tests.support.walk import walk_file


def make_world(folder: Path, model: Path, documents: int, queries: int) -> Path:
    """A config whose job commits every few milliseconds, with measures and a consumers' table."""
    rng = np.random.default_rng(11)
    asked = [tiny.sentence(rng, 1, 5) for _ in range(queries)]
    tiny.write_jsonl(folder / "documents.jsonl", [*tiny.documents(documents), {"doc_id": "bad"}])
    tiny.write_jsonl(folder / "queries.jsonl", tiny.queries(asked))
    (folder / "judgments.tsv").write_text("q000 0 d001 2\nq001 0 d003 1\nq002 0 d004 1\n")
    return tiny.write_config(
        folder,
        model,
        documents__window_rows=10,
        search__chunk_queries=4,
        execution__commit_seconds=0.05,
        rerank__batch_tokens=64,
        results={"publish": "for_the_shop", "columns": ["title", "query_text"]},
        judgments={
            "judgment_list": "j",
            "source": {"format": "trec", "path": "judgments.tsv"},
            "measures": ["nDCG@10"],
        },
    )


def undisturbed(folder: Path) -> Path:
    """A copy of the world whose job ran through, beside it."""
    copy = folder / "undisturbed"
    copy.mkdir()
    for name in ("documents.jsonl", "queries.jsonl", "judgments.tsv", "config.yaml"):
        shutil.copyfile(folder / name, copy / name)
    walk_file(copy / "config.yaml")
    return copy / "db.lancedb"
