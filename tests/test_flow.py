"""The flows on a real Prefect server: run, repeat, artifacts, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client

from configs.load import load_config
from flows.ingest import ingest
from flows.rescore import rescore
from reranking.store import Database
from tests import tiny

pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> Path:
    made = tmp_path_factory.mktemp("flow")
    tiny.write_jsonl(made / "documents.jsonl", [*tiny.documents(), {"doc_id": "bad"}])
    tiny.write_jsonl(made / "queries.jsonl", tiny.queries(["river stone", "", "winter lamp"]))
    (made / "judgments.tsv").write_text("q000 0 d001 2\nq002 0 d003 1\nq002 0 d004 -1\n")
    tiny.write_config(
        made,
        cross_encoder,
        search__chunk_queries=2,
        judgments={
            "judgment_list": "j",
            "source": {"format": "trec", "path": "judgments.tsv"},
            "measures": ["nDCG@10"],
        },
        results={"publish": "for_the_shop", "columns": ["title", "query_text"]},
    )
    return made


@pytest.fixture(scope="module")
def first(folder: Path, prefect_server: None) -> dict[str, Any]:
    return rescore(load_config(folder / "config.yaml"))


def test_a_run_says_what_it_did(first: dict[str, Any]) -> None:
    assert first["status"] == "done" and first["computed"]
    assert first["queries"] == 3
    assert first["scored"] == first["pairs"] > 0
    assert first["rejected"] == 1
    assert {"ingest", "search", "score", "publish", "evaluate"} <= set(first["seconds"])
    assert first["pairs_per_second"] > 0
    assert json.loads(json.dumps(first)) == first
    measured = {(m["query_type"], m["measure"]): m for m in first["measures"]}
    assert measured["hybrid", "nDCG@10"]["queries"] == 2
    assert measured["fts", "nDCG@10"]["first"] is not None


def test_its_results_are_there(first: dict[str, Any], folder: Path) -> None:
    database = Database(str(folder / "db.lancedb"))
    published = database.need("for_the_shop")
    assert published.count_rows() == database.need(first["results_table"]).count_rows()
    row = published.search().where("query_id = 'q000'").limit(1).to_list()[0]
    assert row["query_text"] == "river stone"
    assert row["title"] == f"t{int(row['doc_id'][1:])}"


def test_a_repeat_computes_nothing(first: dict[str, Any], folder: Path) -> None:
    again = rescore(load_config(folder / "config.yaml"))
    assert again["run_id"] == first["run_id"]
    assert not again["computed"]
    assert (again["scored"], again["reused"]) == (0, first["pairs"])
    assert again["rejected"] == 1  # and exits as before
    assert again["measures"] == first["measures"]


def test_artifacts_carry_counts(first: dict[str, Any]) -> None:
    summary = Artifact.get("run-summary")
    assert summary is not None and first["run_id"] in str(summary.data)
    counts = Artifact.get("run-counts")
    assert counts is not None and '"pairs"' in str(counts.data)


async def _states() -> dict[str, str]:
    async with get_client() as client:
        runs = await client.read_flow_runs()
    return {r.name: r.state.name for r in runs if r.state is not None}


def test_flow_runs_are_named_after_their_query_set(first: dict[str, Any]) -> None:
    import asyncio

    assert asyncio.run(_states())["rescore-q"] == "Completed"


def test_ingest_alone(folder: Path, first: dict[str, Any]) -> None:
    report = ingest(load_config(folder / "config.yaml"))
    assert (report["unchanged"], report["rejected"]) == (60, 1)


def test_an_error_comes_through_as_it_is(folder: Path) -> None:
    from reranking.errors import MissingPrerequisite

    config = load_config(folder / "config.yaml", ["rerank.model_name=./nowhere"])
    with pytest.raises(MissingPrerequisite, match="nowhere"):
        rescore(config)
