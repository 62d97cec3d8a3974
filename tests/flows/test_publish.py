"""The table for consumers: whose it is, when it is replaced, and the way back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from flows.cli import app
from reranking.store import Database
from tests.support import tiny


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> Path:
    """A folder with a config that publishes, and its first run."""
    folder = tmp_path_factory.mktemp("publish")
    tiny.write_jsonl(folder / "documents.jsonl", tiny.documents(40))
    for name, asked in {"queries": ["river", "stone bridge"], "others": ["bread"]}.items():
        tiny.write_jsonl(folder / f"{name}.jsonl", tiny.queries(asked))
    config = tiny.write_config(folder, cross_encoder, results={"publish": "shop"})
    assert ask("run", config).exit_code == 0
    return config


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def said(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    values: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return values


def held(config: Path) -> str:
    table = Database(str(config.parent / "db.lancedb")).need("shop")
    return str(table.schema.metadata[b"rescore.run_id"].decode())


def test_a_what_if_leaves_the_table_and_says_so(made: Path) -> None:
    before = held(made)
    result = ask("run", made, "--set", "search.limit=4", "--json")
    values = said(result)
    assert values["run_id"] != before and values["published"] is None
    assert held(made) == before and "is left as it is" in result.stderr
    knob = said(ask("run", made, "--set", "rerank.batch_tokens=4096", "--json"))
    assert knob["published"] == "shop"  # a knob of the machine makes no other run
    asked_for = said(ask("run", made, "--set", "search.limit=4", "--publish", "--json"))
    assert held(made) == asked_for["run_id"] == values["run_id"]
    back = said(ask("publish", before[:8], made, "--json"))
    assert held(made) == before == back["run_id"] and back["changed"]
    assert back["rows"] == Database(str(made.parent / "db.lancedb")).need("shop").count_rows()
    assert not said(ask("publish", before[:8], made, "--json"))["changed"]


def test_another_query_set_does_not_erase_it(made: Path) -> None:
    before = held(made)
    others = ["queries.query_set=others", "queries.source.path=others.jsonl"]
    options = [part for change in others for part in ("--set", change)]
    result = ask("run", made, *options, "--publish")
    assert result.exit_code == 2 and "would erase" in result.output
    assert held(made) == before
