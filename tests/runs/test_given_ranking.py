"""Somebody else's ranking: reranked without a search, or a side of a comparison."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from configs.load import ConfigFault, load_config
from flows.cli import app
from reranking.arrow import frame
from reranking.errors import InputError
from reranking.evaluation.run_measures import rankings
from reranking.runs.run import Run
from tests.support import judged, tiny
from tests.support.judged import refuse
from tests.support.walk import walk_file

COMMANDS = CliRunner()
RANKED = {"q000": ["d005", "d001", "d030"], "q003": ["d002"]}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> Path:
    made = tmp_path_factory.mktemp("ranking")
    judged.collection(made, cross_encoder, search__chunk_queries=2)
    walk_file(made / "config.yaml", "search.query_types=[fts]")
    scores = {d: 9.0 - i for docs in RANKED.values() for i, d in enumerate(docs)}
    lines = [f"{q} Q0 {d} 0 {scores[d]} theirs" for q, docs in RANKED.items() for d in docs]
    lines += ["q000 Q0 gone 0 99 theirs", "who Q0 d001 0 1 theirs", "q003 Q0 d002 0 0.5 theirs"]
    (made / "run.trec").write_text("\n".join(reversed(lines)) + "\n")
    rows = [{"query_id": q, "doc_id": d} for q, docs in RANKED.items() for d in docs]
    tiny.write_jsonl(made / "pairs.jsonl", rows)
    return made


def given(folder: Path, name: str, *overrides: str, query_type: str = "hybrid") -> Run:
    kind = {".trec": "trec", ".jsonl": "jsonl"}[Path(name).suffix]
    source = {"format": kind, "path": name}
    candidates = f"candidates={json.dumps({'source': source, 'query_type': query_type})}"
    return walk_file(folder / "config.yaml", candidates, *overrides, ingest=False)[0]


def first(run: Run) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for part in rankings(run, "first"):
        for row in part.sort_by([("query_id", "ascending"), ("rank", "ascending")]).to_pylist():
            found.setdefault(row["query_id"], []).append(row["doc_id"])
    return found


@pytest.mark.parametrize(
    ("name", "query_type"),
    [("run.trec", "vector"), ("pairs.jsonl", "fts"), ("pairs.jsonl", "hybrid")],
)
def test_its_order_is_the_first_stage_and_nothing_is_searched(
    folder: Path, name: str, query_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reranking.runs.candidates.search_chunk", refuse)
    run = given(folder, name, query_type=query_type)
    assert first(run) == RANKED
    results = frame(run.database.read(run.results_table))
    assert set(results["query_type"]) == {query_type}
    assert sorted(results["doc_id"]) == sorted(d for docs in RANKED.values() for d in docs)
    if "_distance" in results.columns:
        assert results["_distance"].is_null().all()
    if query_type == "fts" and name == "run.trec":  # TREC's scores, and no others, are kept
        assert results.filter(query_id="q003")["_score"].to_list() == [9.0]


def test_both_forms_of_one_ranking_are_told_apart_from_a_search(folder: Path) -> None:
    runs = [given(folder, "run.trec"), given(folder, "pairs.jsonl")]
    searched = walk_file(folder / "config.yaml", "search.query_types=[fts]", ingest=False)[0]
    assert len({r.search_id for r in (*runs, searched)}) == 3
    assert given(folder, "run.trec").finished


def test_bad_rows_are_rejects(folder: Path) -> None:
    run = given(folder, "run.trec")
    rows = run.database.read("rejects").to_pylist()
    assert sorted(r["reason"] for r in rows) == [
        "document not in the corpus",
        "document ranked twice for the query",
        "ranks a query not in the set",
    ]


def test_limit_cuts_and_nonsense_is_refused(folder: Path) -> None:
    assert first(given(folder, "run.trec", "search.limit=2"))["q000"] == RANKED["q000"][:2]
    (folder / "none.trec").write_text("q000 Q0 gone 0 1 x\n")
    with pytest.raises(InputError, match="no usable rows; 1 rows rejected"):
        given(folder, "none.trec")
    where = 'search.where={"title": "t1"}'
    with pytest.raises(ConfigFault, match="search.where"):
        given(folder, "run.trec", where)
    with pytest.raises(ConfigFault, match="holds no rankings"):
        load_config(
            folder / "config.yaml", ['candidates={"source": {"format": "beir", "path": "x"}}']
        )


def test_an_imported_run_is_a_side_of_a_comparison(folder: Path) -> None:
    config = folder / "config.yaml"
    asked: list[Any] = ["import-run", folder / "run.trec", config, "--name", "theirs", "--json"]
    done = COMMANDS.invoke(app, [str(a) for a in [*asked, "--query-type", "fts"]])
    assert done.exit_code == 7, done.output  # three rows were rejected
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert (told["promoted_as"], told["rejected"], told["pairs"]) == ("theirs", 3, 0)
    ours = walk_file(config, "search.query_types=[fts]", ingest=False)[0]
    asked = ["compare", "theirs", ours.run_id, "--config", config, "--json"]
    compared = json.loads(COMMANDS.invoke(app, [str(a) for a in asked]).stdout)
    found = compared["comparisons"][0]
    assert found["differing"]["candidates"] == ["ranking run.trec", "search"]
    assert found["agreement"]["queries"] == judged.QUERIES
