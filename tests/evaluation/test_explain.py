"""Why a document is where it is: told from stored tables, held against what the run published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from reranking.errors import MissingResource
from reranking.evaluation import absent
from reranking.evaluation.explain import explain
from reranking.evaluation.placements import placements
from reranking.runs.run import Run
from tests.support import judged
from tests.support.judged import first_stage, refuse
from tests.support.walk import walk_file


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> tuple[Path, Run, Run]:
    """One collection, judged by its first stage, with a run of 12 and one of 6 candidates a leg."""
    folder = tmp_path_factory.mktemp("explained")
    config = judged.collection(folder, cross_encoder)
    judged.judge(folder, first_stage(walk_file(config)[0]))
    wide = walk_file(config)[0]
    narrow = walk_file(config, "search.limit=6", ingest=False)[0]
    return config, reread(wide), reread(narrow)


def reread(run: Run) -> Run:
    from reranking.runs.listing import find_run

    return find_run(run.database, run.run_id)


def published(run: Run, query_id: str, query_type: str) -> list[str]:
    rows = [
        r
        for r in run.results().to_pylist()
        if r["query_id"] == query_id and r["query_type"] == query_type
    ]
    return [r["doc_id"] for r in sorted(rows, key=lambda r: r["rank"])]


@pytest.mark.parametrize("query_type", ["vector", "fts", "hybrid"])
def test_ranks_are_those_that_were_published(runs: tuple[Path, Run, Run], query_type: str) -> None:
    for run in runs[1:]:
        placed = placements(run, "q003", query_type)
        by_rank = sorted(placed.documents.values(), key=lambda p: p.full_rank)
        ranked = published(run, "q003", query_type)
        assert [p.doc_id for p in by_rank][: placed.cut] == ranked
        assert [p.rank for p in by_rank if p.rank] == list(range(1, len(ranked) + 1))


def test_the_reasons_name_legs_and_model(
    runs: tuple[Path, Run, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run, _ = runs
    monkeypatch.setattr(absent, "search_chunk", refuse)  # stored tables are enough
    made = run.explain("q003")
    assert [d.doc_id for d in made.documents] == published(run, "q003", "hybrid")[:10]
    first = made.documents[0]
    assert "first stage" in first.reason and "the reranker" in first.reason
    assert first.here is not None and first.here.logit == pytest.approx(first.here.score)
    assert first.grade in (0, 1)
    assert made.documents[0].doc_id in made._repr_html_()
    cut = next(p for p in placements(run, "q003", "hybrid").documents.values() if not p.rank)
    [told] = run.explain("q003", cut.doc_id).documents
    assert f"cut: it is at {cut.full_rank} and 12 are kept" in told.reason


def test_what_the_limit_cut_is_searched_again(runs: tuple[Path, Run, Run]) -> None:
    _, wide, narrow = runs
    deep = placements(wide, "q003", "vector").documents
    beyond = next(p for p in deep.values() if (p.vector_rank or 0) > 6)
    made = explain(narrow, "q003", beyond.doc_id, query_type="vector")
    reason = made.documents[0].reason
    assert f"the limit of 6 cut it at rank {beyond.vector_rank} of the vector leg" in reason
    assert "searched again at version" in reason
    [gone] = narrow.explain("q003", "no such").documents
    assert "there is no such document" in gone.reason


def test_two_runs_tell_what_moved_and_what_was_lost(runs: tuple[Path, Run, Run]) -> None:
    _, wide, narrow = runs
    lost_somewhere = False
    for query_id in ("q000", "q001", "q002", "q003", "q004", "q005"):
        made = narrow.explain(query_id, against=wide.run_id[:8])
        here = set(published(narrow, query_id, "hybrid"))
        grades = {d.doc_id: d.grade for d in made.documents}
        expected = [d for d in published(wide, query_id, "hybrid") if d not in here]
        assert list(made.lost) == [d for d in expected if (grades.get(d) or 0) > 0]
        lost_somewhere |= bool(made.lost)
        for document in made.documents:
            if document.here is None:
                assert document.reason.startswith("lost: not among the candidates")
    assert lost_somewhere
    same = wide.explain("q003", against=wide)
    assert all(d.reason.startswith("same rank") for d in same.documents)
    assert same.lost == ()


def test_the_command_prints_a_table_and_json(runs: tuple[Path, Run, Run]) -> None:
    config, wide, narrow = runs
    given = ["explain", narrow.run_id[:8], "q003", "--config", str(config)]
    shown = CliRunner().invoke(app, given, env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "the reranker" in shown.output
    told = CliRunner().invoke(app, [*given, "--against", wide.run_id[:8], "--json"])
    values = json.loads(told.stdout.splitlines()[-1])
    assert values["against"] == wide.run_id
    assert {"doc_id", "grade", "here", "there", "reason"} == set(values["documents"][0])


def test_an_unknown_query_is_told_with_some_that_exist(runs: tuple[Path, Run, Run]) -> None:
    with pytest.raises(MissingResource, match="no query 'q999' among its 40 .*q000"):
        runs[1].explain("q999")
