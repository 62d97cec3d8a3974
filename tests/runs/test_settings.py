"""Nights of one pipeline: told by name, query set and documents table, whatever else changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from configs.load import load_config
from flows.cli import app
from reranking.order import rescore
from reranking.pipeline import Pipeline
from reranking.progress import unwatched
from reranking.runs.listing import list_rows, newest_done
from reranking.runs.rerank import Rescorer
from reranking.runs.settings import pipeline_of, settings_digest
from reranking.steps import Here
from reranking.store import Database
from tests.support import tiny
from tests.support.walk import walk_file


def told(*arguments: object) -> Any:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> Path:
    """The config of two nights: the documents of the second come from another file."""
    folder = tmp_path_factory.mktemp("nights")
    documents = tiny.documents(30)
    tiny.write_jsonl(folder / "documents.jsonl", documents)
    tiny.write_jsonl(folder / "monday.jsonl", documents[:29])
    tiny.write_jsonl(folder / "queries.jsonl", tiny.queries(["river stone", "winter lamp"]))
    (folder / "judgments.tsv").write_text("q000 0 d001 1\nq001 0 d002 1\n")
    source = {"format": "trec", "path": "judgments.tsv"}
    judgments = {"judgment_list": "j", "source": source}
    config = tiny.write_config(folder, cross_encoder, judgments=judgments)
    walk_file(config, "documents.source.path=monday.jsonl")
    walk_file(config)
    return config


def test_dated_files_are_one_pipeline_and_a_moved_database_keeps_it(
    made: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(made.parent, moved)
    (moved / "documents.jsonl").rename(moved / "tuesday.jsonl")
    config = moved / made.name
    config.write_text(config.read_text().replace("documents.jsonl", "tuesday.jsonl"))
    newest = list_rows(Database(str(moved / "db.lancedb")))[0]["run_id"]
    assert told("evaluate", config)["run_id"] == newest
    rows = told("history", "--config", config)
    assert len({row["run_id"] for row in rows}) == 2
    assert {tuple(row["changed"]) for row in rows} == {()}
    values = told("run", config)
    assert (values["run_id"], values["computed"]) == (newest, False)


def test_another_limit_is_a_night_with_a_mark(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made.parent, tmp_path / "copy")
    config = tmp_path / "copy" / made.name
    own = newest_done(Database(str(config.parent / "db.lancedb")), load_config(config)).run_id
    deeper, _ = walk_file(config, "search.limit=12")
    rows = [r for r in told("history", "--config", config) if r["query_type"] == "hybrid"]
    assert [r["changed"] for r in rows] == [[], [], ["limit 10 -> 12"]]
    assert rows[-1]["change"] == pytest.approx(rows[-1]["value"] - rows[-2]["value"])
    # What is asked of the config itself is answered by the run that it makes.
    assert told("evaluate", config)["run_id"] == own
    listed = {r["run_id"]: r["differs"] for r in told("runs", "--config", config)}
    assert listed[deeper.run_id] == {"limit": 12} and listed[own] == {"limit": 10}
    shown = CliRunner().invoke(app, ["runs", "--config", str(config)]).output
    assert "limit 12" in shown and "q/documents" not in shown


def test_a_name_keeps_pipelines_apart_and_takes_over_what_had_none(made: Path) -> None:
    plain = load_config(made)
    shop, site = (load_config(made, [f"name={n}"]) for n in ("shop", "site"))
    assert str(pipeline_of(shop)) == "shop/q/documents"
    assert pipeline_of(shop).includes(pipeline_of(plain))
    assert not pipeline_of(plain).includes(pipeline_of(shop))
    assert not pipeline_of(site).includes(pipeline_of(shop))
    assert settings_digest(shop) == settings_digest(plain)
    ranking = {"source": {"format": "trec", "path": "r.trec"}}
    given = load_config(made, [f"candidates={json.dumps(ranking)}"])
    assert not pipeline_of(plain).includes(pipeline_of(given))


def test_a_failed_run_says_why_and_goes_on(
    tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made.parent, tmp_path / "copy")
    config = load_config(tmp_path / "copy" / made.name, ["search.limit=9"])

    def fail(*_: object) -> None:
        raise RuntimeError("the disk said \n no")

    with monkeypatch.context() as patched:
        patched.setattr(Rescorer, "score_chunk", fail)
        with pytest.raises(RuntimeError):
            rescore(Pipeline(config, Here(unwatched)))
    row = list_rows(Database(config.database))[0]
    assert (row["status"], row["failure"]) == ("failed", "RuntimeError: the disk said no")
    assert row["committed_at"] is not None and row["committed_at"] >= row["started_at"]
    shown = CliRunner().invoke(app, ["runs", "--database", config.database]).output
    assert f"{row['run_id'][:8]} failed, last commit " in shown
    rescore(Pipeline(config, Here(unwatched)))
    row = list_rows(Database(config.database))[0]
    assert (row["status"], row["failure"]) == ("done", None)


def test_a_killed_run_is_running_since_its_last_commit(
    tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies says nothing: the commit that follows a mark is the last that is known"""
    shutil.copytree(made.parent, tmp_path / "copy")
    config = load_config(tmp_path / "copy" / made.name, ["search.limit=8"])
    pipeline = Pipeline(config, Here(unwatched))
    with monkeypatch.context() as patched:
        patched.setattr("reranking.order.note_end", lambda *_: None)
        patched.setattr("reranking.chunks.publish_results", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            rescore(pipeline)
    row = list_rows(Database(config.database))[0]
    assert (row["status"], row["failure"]) == ("running", None)
    assert row["committed_at"] is not None and row["committed_at"] > row["started_at"]


def test_the_first_rejects_are_told_where_they_make_the_exit_code(
    tmp_path: Path, made: Path
) -> None:
    shutil.copytree(made.parent, tmp_path / "copy")
    config = tmp_path / "copy" / made.name
    rows = "".join(f"q000 Q0 no-such-{i} {i + 1} {9 - i} x\n" for i in range(7))
    ranking = tmp_path / "ranking.trec"
    ranking.write_text(f"q000 Q0 d001 1 10 x\n{rows}")
    asked = ["import-run", str(ranking), str(config), "--name", "other"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 7
    assert done.stderr.count("rejected: row") == 5 and "no-such-0" in done.stderr
    assert "2 more; `rescore rejects --database" in done.stderr
    assert CliRunner().invoke(app, [*asked, "--allow-rejects"]).exit_code == 0
