"""One question asked now is answered as a run of that query would be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from reranking.arrow import frame
from reranking.runs.run import Run
from reranking.store import Database
from tests.support import judged
from tests.support.judged import encoded_collection, encoder_folder
from tests.support.walk import walk_file


@pytest.fixture(scope="module")
def asked(
    tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path
) -> tuple[Path, Run, list[dict[str, str]]]:
    folder = tmp_path_factory.mktemp("asked")
    encoder = encoder_folder(folder / "encoder", 1)
    blend = {"vector": 2, "fts": 1, "scale": "min-max"}
    config = encoded_collection(folder, cross_encoder, encoder, rerank__blend=blend)
    with pytest.MonkeyPatch.context() as patch:
        judged.use_scorer(patch, judged.shuffled)
        run = walk_file(config)[0]
    return config, run, run.query_rows.select(["query_id", "text"]).to_pylist()


def answer(*given: str) -> dict[str, object]:
    done = CliRunner().invoke(app, ["search", *given, "--json"])
    assert done.exit_code == 0, done.output
    values: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return values


@pytest.mark.parametrize("query_type", ["vector", "hybrid"])
def test_a_query_of_the_set_gets_the_runs_ranking(
    asked: tuple[Path, Run, list[dict[str, str]]], query_type: str
) -> None:
    config, run, queries = asked
    query = queries[3]
    given = [str(config), query["text"], "--query-type", query_type]
    values = answer(*given, "--run", run.run_id[:8])
    rows = frame(run.results()).filter(query_id=query["query_id"], query_type=query_type)
    ours = [(h["doc_id"], h["score"]) for h in values["hits"]]  # type: ignore[attr-defined]
    theirs = list(rows.sort("rank").head(10).select("doc_id", "_relevance_score").iter_rows())
    assert [d for d, _ in ours] == [d for d, _ in theirs]
    assert [s for _, s in ours] == pytest.approx([s for _, s in theirs], abs=1e-5)
    assert values["pairs"] == values["reused"] > 0  # no model was needed
    assert answer(*given)["hits"] == values["hits"]


def test_new_words_are_scored_and_not_stored(
    asked: tuple[Path, Run, list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run, _ = asked
    judged.use_scorer(monkeypatch, judged.shuffled)
    database = Database(run.database.uri)
    before = {n: database.need(n).count_rows() for n in database.names()}
    shown = CliRunner().invoke(app, ["search", str(config), "river stone lamp", "--top", "3"])
    assert shown.exit_code == 0, shown.output
    assert "0 of them with a stored score" in shown.output and "excerpt" in shown.output
    assert {n: database.need(n).count_rows() for n in database.names()} == before


def test_a_filter_is_joined(asked: tuple[Path, Run, list[dict[str, str]]]) -> None:
    config = str(asked[0])
    given = [config, "river stone", "--query-type", "fts"]
    title = frame(Database(asked[1].database.uri).read("documents"))["title"][0]
    values = answer(*given, "--where", f"title={title}")
    assert len(values["hits"]) <= 1 and values["where"] == {"title": title}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "message", "code"),
    [
        (["--where", "lang"], "expected COLUMN=VALUE", 2),
        (["--where", "nothing=1"], "search.where names ['nothing']", 2),
        (["--query-type", "bm25"], "expected vector, fts or hybrid", 2),
        (["--run", "ffff"], "no run 'ffff'", 4),
    ],
)
def test_what_cannot_be_asked_is_said(
    asked: tuple[Path, Run, list[dict[str, str]]], given: list[str], message: str, code: int
) -> None:
    done = CliRunner().invoke(app, ["search", str(asked[0]), "river", *given])
    assert done.exit_code == code and message in done.output, done.output
