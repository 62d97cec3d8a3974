"""What was imported is listed, shown, dropped; one row is erased everywhere, files included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.cli import app
from reranking.store import Database
from tests.support import tiny
from tests.support.walk import walk_file

DOCUMENT = "harbor zyxwvdocument lamp"
QUERY = "harbor qponmlquery"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> Path:
    folder = tmp_path_factory.mktemp("erase")
    vector = tiny.documents(1)[0]["vector"]
    one = {"doc_id": "gone-document", "text": DOCUMENT, "vector": vector}
    tiny.write_jsonl(folder / "documents.jsonl", [*tiny.documents(30), one])
    asked = tiny.queries(["river stone", "winter lamp", QUERY])
    tiny.write_jsonl(folder / "queries.jsonl", asked)
    (folder / "judgments.tsv").write_text("q000 0 gone-document 1\nq002 0 d001 2\nq001 0 d003 1\n")
    config = tiny.write_config(
        folder,
        cross_encoder,
        search__limit=40,
        judgments={"judgment_list": "j", "source": {"format": "trec", "path": "judgments.tsv"}},
        results={"publish": "shop", "columns": ["text", "query_text"], "report": "reports"},
    )
    walk_file(config)
    return config


def told(*arguments: object) -> Any:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def files_with(config: Path, text: str) -> list[str]:
    """The files below the database and the reports whose bytes hold the text."""
    places = [config.parent / "db.lancedb", config.parent / "reports"]
    files = [p for place in places for p in place.rglob("*") if p.is_file()]
    return [str(p.relative_to(config.parent)) for p in files if text.encode() in p.read_bytes()]


def test_what_is_stored_is_listed_and_shown(config: Path) -> None:
    (asked,) = told("queries", "--config", config)
    assert (asked["query_set"], asked["queries"], asked["with_vector"], asked["runs"]) == (
        *("q", 3, 3, 1),
    )
    assert [r["text"] for r in told("queries", "show", "q", "--config", config)][2] == QUERY
    (graded,) = told("judgments", "--config", config)
    assert (graded["judgments"], graded["raters"], graded["grades"]) == (
        *(3, ["imported"], {"1": 2, "2": 1}),
    )
    shown = CliRunner().invoke(app, ["judgments", "show", "jj", "--config", str(config)])
    assert shown.exit_code == 4 and "did you mean 'j'?" in shown.stderr


def test_a_document_and_a_query_leave_tables_files_and_reports(config: Path) -> None:
    assert files_with(config, "zyxwvdocument") and files_with(config, "qponmlquery")
    done = told("erase", config, "--document", "gone-document")
    tables = {"documents", "candidates", "judgments", "shop", "pair_scores"}
    assert tables <= set(done["rows"]) and len(done["files"]) == 1
    assert any("an older version of 'documents', which run" in text for text in done["left"])
    assert files_with(config, "zyxwvdocument")  # the run pins it: said above
    run = told("runs", "--config", config)[0]["run_id"]  # what is left of it is read as before
    compared = told("compare", f"{run}:first", run, "--config", config)
    assert compared["comparisons"][0]["agreement"]["queries"] == 3
    again = CliRunner().invoke(app, ["erase", str(config), "--document", "gone-document"])
    assert again.exit_code == 4 and "nothing to erase" in again.stderr

    done = told("erase", config, "--query", "q002", "--unpin")
    assert {"queries", "candidates", "judgments", "metrics", "shop"} <= set(done["rows"])
    assert files_with(config, "qponmlquery") == []
    database = Database(str(config.parent / "db.lancedb"))
    for name in database.names():
        rows = json.dumps(database.need(name).to_arrow().to_pylist(), default=str)
        assert "zyxwv" not in rows and "qponml" not in rows and "gone-document" not in rows, name
    assert "brings back" in " ".join(done["left"])


def test_with_unpin_no_file_holds_the_document(tmp_path: Path, cross_encoder: Path) -> None:
    one = {"doc_id": "x", "text": DOCUMENT, "vector": tiny.documents(1)[0]["vector"]}
    tiny.write_jsonl(tmp_path / "documents.jsonl", [*tiny.documents(30), one])
    tiny.write_jsonl(tmp_path / "queries.jsonl", tiny.queries(["river stone"]))
    config = tiny.write_config(tmp_path, cross_encoder, search__limit=40, rerank=None)
    walk_file(config)
    assert files_with(config, "zyxwvdocument")
    told("erase", config, "--document", "x", "--unpin")
    assert files_with(config, "zyxwvdocument") == []
    assert told("runs", "--config", config)[0]["status"] == "done"


def test_maintenance_says_bytes_and_what_is_held_back(config: Path) -> None:
    values = told("maintain", config, "--older-than", "0s")
    assert values["bytes_after"] > 0 and values["bytes_before"] > 0
    run = told("runs", "--config", config)[0]["run_id"]
    assert any(
        "older versions of documents" in text and f"run {run[:8]} reads them" in text
        for text in values["held"]
    )
    shown = CliRunner().invoke(app, ["maintain", str(config), "--dry-run"]).output
    assert "bytes of the database after" in shown
    wrong = CliRunner().invoke(app, ["maintain", str(config), "--older-than", "week"])
    assert wrong.exit_code == 2 and "as in 7d" in wrong.stderr


def test_a_wrong_import_is_taken_back(config: Path) -> None:
    assert told("judgments", "drop", "j", "--config", config)["judgments"] >= 1
    assert told("judgments", "--config", config) == []
    assert told("queries", "drop", "q", "--config", config)["queries"] >= 2
    assert told("queries", "--config", config) == []
    unnamed = CliRunner().invoke(app, ["queries", "drop", "--config", str(config)])
    assert unnamed.exit_code == 2
