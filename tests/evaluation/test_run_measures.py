"""Measures of stored runs: against ir-measures itself, per slice, on today's judgments."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import pytest
from ir_measures import RR, nDCG
from typer.testing import CliRunner, Result

from configs.load import load_config
from flows.cli import app
from reranking.arrow import frame
from reranking.runs.run import Run
from tests.support import judged, tiny
from tests.support.judged import first_stage
from tests.support.walk import database_of, walk_file

COMMANDS = CliRunner()


def ask(*arguments: object) -> Result:
    return COMMANDS.invoke(app, [str(a) for a in arguments])


def told(*arguments: object) -> dict[str, Any]:
    result = ask(*arguments, "--json")
    assert result.exit_code == 0, result.output
    values: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    return values


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> Path:
    made = tmp_path_factory.mktemp("evaluate")
    judged.collection(made, cross_encoder)
    return made


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    done = walk_file(folder / "config.yaml")[0]
    judged.judge(folder, first_stage(done))  # new judgments come after the run is finished
    return done


def test_it_measures_both_stages_as_ir_measures_does(folder: Path, run: Run) -> None:
    values = told("evaluate", folder / "config.yaml")
    assert values["run_id"] == run.run_id
    rows = {(r["query_type"], r["measure"]): r for r in values["measures"]}
    qrels = [
        ir_measures.Qrel(q, d, int(grade))
        for q, _, d, grade in map(str.split, (folder / "judgments.tsv").read_text().splitlines())
    ]
    results = frame(database_of(run).read(run.results_table))
    for query_type in ("vector", "fts", "hybrid"):
        first = first_stage(run, query_type)
        reranked = results.filter(query_type=query_type)
        stages = {
            "first": [
                ir_measures.ScoredDoc(q, d, -float(i))
                for q, docs in first.items()
                for i, d in enumerate(docs)
            ],
            "reranked": [
                ir_measures.ScoredDoc(q, d, -float(rank))
                for q, d, rank in reranked.select("query_id", "doc_id", "rank").iter_rows()
            ],
        }
        for stage, ranked in stages.items():
            expected = ir_measures.calc_aggregate([nDCG @ 10, RR @ 10], qrels, ranked)
            for measure, value in expected.items():
                assert rows[query_type, str(measure)][stage] == pytest.approx(value, abs=1e-9)
    assert rows["hybrid", "nDCG@10"]["first"] == pytest.approx(1.0)
    assert rows["hybrid", "Judged@10"]["first"] == pytest.approx(1.0)


def test_slices_by_tag_and_length_mark_the_worst(folder: Path, run: Run) -> None:
    values = told("evaluate", folder / "config.yaml", "--run", run.run_id[:10])
    hybrid = [
        r
        for r in values["slices"]
        if (r["query_type"], r["measure"]) == ("hybrid", values["primary"])
    ]
    assert {(r["kind"], r["slice"]) for r in hybrid} >= {("tag", "odd"), ("tag", "even")}
    assert sum(r["queries"] for r in hybrid if r["kind"] == "length") == judged.QUERIES
    worst = [r for r in hybrid if r["worst"]]
    large = [r for r in hybrid if r["queries"] >= 5]
    assert len(worst) == 1
    assert worst[0]["reranked"] == min(r["reranked"] for r in large)
    tags = [r["reranked"] for r in hybrid if r["kind"] == "tag"]
    whole = next(r for r in values["measures"] if r["query_type"] == "hybrid")
    assert np.mean(tags) == pytest.approx(whole["reranked"])
    text = ask("evaluate", folder / "config.yaml").output
    assert "tag: odd" in text and "worst" in text and "40 of 40 queries are judged" in text


def test_a_failed_gate_is_exit_code_1_after_the_measures(folder: Path, run: Run) -> None:
    gates = json.dumps([{"metric": "nDCG@10", "min_absolute_change": 0.01}])
    options = ["--set", f"gates={gates}", "--set", "comparison.against=first"]
    result = ask("evaluate", folder / "config.yaml", *options)
    assert result.exit_code == 1
    assert "FAILED" in result.stdout and "must gain at least +0.01" in result.stderr
    values = json.loads(ask("evaluate", folder / "config.yaml", *options, "--json").stdout)
    assert values["gates"]["verdict"] == "regressed" and values["measures"]


def test_the_newest_run_of_the_config_is_meant(folder: Path, run: Run) -> None:
    other = ["--set", "search.limit=5"]
    result = ask("evaluate", folder / "config.yaml", *other)
    assert result.exit_code == 0 and "none has the config's own settings" in result.stderr
    assert f"run {run.run_id[:8]} is taken" in result.stderr
    result = ask("evaluate", folder / "config.yaml", "--set", "documents.table=others")
    assert result.exit_code == 4 and "(q/others)" in result.stderr
    fewer = ["--set", "judgments.measures=[AP]"]  # what is measured makes no other run
    assert told("evaluate", folder / "config.yaml", *fewer)["run_id"] == run.run_id
    assert ask("evaluate", folder / "config.yaml", "--set", "judgments=null").exit_code == 2


def test_a_reworded_query_does_not_keep_its_grades(tmp_path: Path, cross_encoder: Path) -> None:
    path = judged.collection(tmp_path, cross_encoder, search__query_types=["fts"])
    first = walk_file(path)[0]
    judged.judge(tmp_path, first_stage(first, "fts"))
    graded = told("evaluate", path)
    assert (graded["unjudged_queries"], graded["stale_grades"]) == (0, 0)
    asked = [json.loads(s) for s in (tmp_path / "queries.jsonl").read_text().splitlines()]
    asked[4]["text"] += " lamp"
    tiny.write_jsonl(tmp_path / "queries.jsonl", asked)
    second = walk_file(path)[0]
    assert second.run_id != first.run_id
    values = told("evaluate", path)
    assert values["run_id"] == second.run_id
    assert values["unjudged_queries"] == 1 and values["stale_grades"] > 0
    assert {m["queries"] for m in values["measures"]} == {judged.QUERIES - 1}
    assert "older wording" in ask("evaluate", path).output
    accepted = told("evaluate", path, "--set", "judgments.accept_reworded=true")
    assert (accepted["unjudged_queries"], accepted["stale_grades"]) == (0, 0)
    # the old run is measured on what holds for its own wording: now nothing for that query
    assert told("evaluate", path, "--run", first.run_id)["unjudged_queries"] == 1
    assert load_config(path).judgments is not None


def test_a_query_that_is_its_own_document(tmp_path: Path, cross_encoder: Path) -> None:
    """As in ArguAna: each query stands in the corpus, so it finds itself before its answer."""
    words = ["river", "stone", "lamp", "winter"]
    tiny.write_jsonl(
        tmp_path / "documents.jsonl",
        [
            *({"doc_id": w, "text": f"{w} {w} {w}", "vector": [1.0, 0.0]} for w in words),
            *({"doc_id": f"on {w}", "text": f"{w} and more", "vector": [1.0, 0.0]} for w in words),
        ],
    )
    tiny.write_jsonl(tmp_path / "queries.jsonl", [{"query_id": w, "text": w} for w in words])
    (tmp_path / "j.jsonl").write_text(
        "".join(
            json.dumps({"query_id": w, "doc_id": d, "relevance": 1}) + "\n"
            for w in words
            for d in (f"on {w}", w)
        )
    )
    judgments = {
        "judgment_list": "j",
        "source": {"format": "jsonl", "path": "j.jsonl"},
        "measures": ["RR@10", "R@1"],
    }
    settings: dict[str, Any] = {"search__query_types": ["fts"], "rerank": None}
    plain = tiny.write_config(tmp_path, cross_encoder, judgments=judgments, **settings)
    run, summary = walk_file(plain)[:2]
    ranked = frame(run.results()).sort("query_id", "rank")
    assert ranked["doc_id"].to_list() == [d for w in sorted(words) for d in (w, f"on {w}")]
    before = {m["measure"]: m["first"] for m in told("evaluate", plain)["measures"]}
    assert (before["RR@10"], before["R@1"]) == (1.0, 0.5)

    other = tmp_path / "other.yaml"
    other.write_text(
        plain.read_text().replace(
            "judgment_list: j", "ignore_identical_ids: true\n  judgment_list: j"
        )
    )
    values = told("evaluate", other)
    after = {m["measure"]: m["first"] for m in values["measures"]}
    qrels = [ir_measures.Qrel(w, f"on {w}", 1) for w in words]
    without = [
        ir_measures.ScoredDoc(r["query_id"], r["doc_id"], -float(r["rank"]))
        for r in ranked.to_dicts()
        if r["query_id"] != r["doc_id"]
    ]
    expected = ir_measures.calc_aggregate([RR @ 10, ir_measures.R @ 1], qrels, without)
    assert {str(m): v for m, v in expected.items()} == {k: after[k] for k in ("RR@10", "R@1")}
    assert after["R@1"] == 1.0
    assert values["judgments"] != told("evaluate", plain)["judgments"]  # stored beside each other
    assert values["run_id"] == run.run_id  # the same run: nothing is searched again


def test_what_is_judged_but_unknown_is_counted_and_named(
    tmp_path: Path, cross_encoder: Path
) -> None:
    """By evaluate, compare, run and the report; a query that left its set is unknown too."""
    tiny.write_jsonl(tmp_path / "documents.jsonl", tiny.documents(20))
    tiny.write_jsonl(tmp_path / "queries.jsonl", tiny.queries(["river stone", "lamp", "winter"]))
    grades = "q000 0 d001 1\nq001 0 gone 1\nq001 0 d003 0\nq002 0 d004 1\n"
    (tmp_path / "judgments.tsv").write_text(grades)
    judgments: dict[str, Any] = {
        "judgment_list": "j",
        "source": {"format": "trec", "path": "judgments.tsv"},
        "measures": ["nDCG@10"],
    }
    report = {"report": str(tmp_path / "report")}
    config = tiny.write_config(tmp_path, cross_encoder, judgments=judgments, results=report)
    values = told("run", config)
    none = {"documents": 1, "queries": 0, "document_examples": ["gone"], "query_examples": []}
    assert values["unknown"] == none
    assert "1 judged documents are not in the corpus (gone)" in html.unescape(
        next((tmp_path / "report").glob("*.html")).read_text()
    )
    tiny.write_jsonl(tmp_path / "queries.jsonl", tiny.queries(["river stone", "lamp"]))
    del judgments["source"]  # as they are stored: the file would be rejected in part
    config = tiny.write_config(tmp_path, cross_encoder, judgments=judgments, results=report)
    second = told("run", config)["unknown"]
    assert (second["queries"], second["query_examples"]) == (1, ["q002"])
    assert told("evaluate", config)["unknown"] == second
    shown = ask("evaluate", config).output
    assert "judged documents not in the corpus: 1 (such as gone)" in shown
    assert "judged queries not in the query set: 1 (such as q002)" in shown
    compared = told("compare", values["run_id"], values["run_id"] + ":first", "--config", config)
    assert compared["comparisons"][0]["unknown"]["documents"] == 1
