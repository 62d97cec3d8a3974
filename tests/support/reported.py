"""A judged collection whose texts, ids and tags attack the page that shows them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from configs.labelling import LabelRule, Labels
from configs.load import load_config
from reranking.labelling.run_labels import bench, label_run
from reranking.pipeline import Pipeline
from reranking.runs.run import Run
from reranking.store import Database
from tests.support import judged, tiny
from tests.support.judged import first_stage
from tests.support.walk import database_of, walk_file

ATTACKS = (
    "<script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "</p></details></td></tr></tbody></table></main><h1>owned</h1>",
    "\" onmouseover=\"document.title='owned'\" x='",
    "</title></style></script><svg onload=document.title='owned'>",
    "{{ 7*7 }} {% include 'report.css' %}",
    "<!-- <base href=https://evil.example/><link rel=stylesheet href=//evil.example/x.css>",
    "<style>body{display:none}</style> \u202egnp.exe \u0007 &lt;b&gt;&amp;",
    "<iframe srcdoc='<script>parent.document.title=1</script>'></iframe>",
)


@dataclass(frozen=True)
class Reported:
    """Two finished runs, the second one with a shuffled reranker, and the first one's labels."""

    config: Path
    database: Database
    run: Run
    other: Run
    label_set: str


def reported(folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Reported:
    """The collection in `folder`, judged after the first stage of its first run."""
    config = judged.collection(folder, model)
    _attack(folder)
    run = walk_file(config)[0]
    judged.judge(folder, first_stage(run))
    Pipeline(load_config(config)).load_judgments()
    judged.use_scorer(monkeypatch, judged.shuffled)
    other = walk_file(config, "rerank.max_length=40", ingest=False)[0]
    database = database_of(run)
    rule = LabelRule(name="best", on="score", top_n=2)
    labels = Labels(label_set="answers", rules=(rule,), relevant=1, judgments=("j",))
    label_set = label_run(bench(run, labels)).label_set
    return Reported(config, database, run, other, label_set)


def _attack(folder: Path) -> None:
    documents = _read(folder / "documents.jsonl")
    for number, document in enumerate(documents):
        document["text"] += " " + ATTACKS[number % len(ATTACKS)]
        document["doc_id"] += "\"'><i>" if number % 2 else ""
    tiny.write_jsonl(folder / "documents.jsonl", documents)
    queries = _read(folder / "queries.jsonl")
    for number, query in enumerate(queries):
        query["text"] += " " + ATTACKS[number % len(ATTACKS)]
        query["query_id"] += "\"'><b>" if number % 2 else ""
        query["tags"].append("<u>tag</u>" if number % 3 else '"><s>')
    tiny.write_jsonl(folder / "queries.jsonl", queries)


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
