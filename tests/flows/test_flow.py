"""The flows on a real Prefect server: run, repeat, artifacts, errors."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.artifacts import Artifact
from prefect.client.orchestration import get_client
from prefect.types.names import validate_valid_asset_key

from configs.load import load_config
from flows.commands.place import do
from flows.ingest import ingest
from flows.rescore import rescore
from reranking.store import Database
from tasks.assets import asset_key
from tests.support import tiny

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
        results={
            "publish": "for_the_shop",
            "columns": ["title", "query_text"],
            "report": "reports",
        },
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
    assert first["seconds_saved"] == 0
    assert first["published"] == first["consumers"]["table"] == "for_the_shop"
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
    saved = first["pairs"] / first["pairs_per_second"]  # which is rounded
    assert again["seconds_saved"] == pytest.approx(saved, rel=0.05, abs=0.1)
    assert again["rejected"] == 1  # and exits as before
    assert again["measures"] == first["measures"]


def test_artifacts_carry_counts(first: dict[str, Any]) -> None:
    summary = Artifact.get("run-summary")
    assert summary is not None and first["run_id"] in str(summary.data)
    counts = Artifact.get("run-counts")
    assert counts is not None and '"pairs"' in str(counts.data)


def test_the_report_is_written_and_linked(first: dict[str, Any], folder: Path) -> None:
    page = folder / "reports" / f"{first['run_id']}.html"
    assert first["run_id"] in page.read_text("utf-8")
    assert first["report"] == page.as_uri()
    for key in ("run-summary", "report"):
        artifact = Artifact.get(key)
        assert artifact is not None and page.as_uri() in str(artifact.data)


def test_flow_runs_are_named_and_tagged_by_query_set_and_models(first: dict[str, Any]) -> None:
    with get_client(sync_client=True) as client:
        runs = {r.name: r for r in client.read_flow_runs()}
    run = runs["rescore q tiny-bert"]
    assert run.state is not None and run.state.name == "Completed"
    assert set(run.tags) == {"query-set:q", "reranker:tiny-bert"}


def _materialized() -> dict[str, dict[str, Any]]:
    """Key and payload of each asset that Prefect's server knows of; its events come a bit later."""
    wanted = {"filter": {"event": {"prefix": ["prefect.asset.materialization.succeeded"]}}}
    with get_client(sync_client=True) as client:
        found = client.request("POST", "/events/filter", json=wanted).json()["events"]
    return {e["resource"]["prefect.resource.id"]: e for e in found}


def test_tables_are_assets_with_rows_and_versions(first: dict[str, Any], folder: Path) -> None:
    database = Database(str(folder / "db.lancedb"))
    keys = {n: asset_key(database.uri, n) for n in (first["results_table"], "for_the_shop")}
    while not set(keys.values()) <= (found := _materialized()).keys():
        time.sleep(0.2)  # the server stores its events in its own time
    for name, key in keys.items():
        table = database.need(name)
        told = found[key]["payload"]
        assert (told["rows"], told["version"]) == (table.count_rows(), table.version)
        assert asset_key(database.uri, "documents") in str(found[key]["related"])


@given(st.text(min_size=1), st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", fullmatch=True))
def test_any_database_and_table_have_a_key(uri: str, table: str) -> None:
    assert validate_valid_asset_key(asset_key(uri, table))


def test_ingest_alone(folder: Path, first: dict[str, Any]) -> None:
    report = ingest(load_config(folder / "config.yaml"))
    assert (report["unchanged"], report["rejected"]) == (60, 1)


def test_an_error_comes_through_as_it_is(folder: Path) -> None:
    from reranking.errors import MissingPrerequisite

    config = load_config(folder / "config.yaml", ["rerank.model_name=./nowhere"])
    with pytest.raises(MissingPrerequisite, match="nowhere"):
        rescore(config)


@pytest.mark.slow
def test_work_that_a_limit_ended_is_no_failure(first: dict[str, Any], folder: Path) -> None:
    limit = ["execution.max_pairs=1", "rerank.max_length=30", "database=limited.lancedb"]
    state = rescore(load_config(folder / "config.yaml", limit), return_state=True)
    assert (state.type.value, state.name) == ("COMPLETED", "ToBeContinued"), state.message
    values = do("rescore", load_config(folder / "config.yaml", limit), server=True)
    assert values["status"] == "to be continued" and values["scored"] >= 1
