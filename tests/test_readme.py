"""The README is true: its tables are the code's, its config and commands run."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from tests.conftest import REPOSITORY
from tests.support import tiny
from tests.support.readme import README, filled

TEXT = README.read_text("utf-8")


def test_its_tables_are_those_of_the_code() -> None:
    assert filled(TEXT) == TEXT, "run: python -m tests.support.readme"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", TEXT, flags=re.DOTALL)


def beir(folder: Path) -> None:
    """A collection of a few documents in BEIR's layout."""
    (folder / "qrels").mkdir(parents=True)
    documents = [
        {"_id": d["doc_id"], "title": d["title"], "text": d["text"]} for d in tiny.documents(30)
    ]
    tiny.write_jsonl(folder / "corpus.jsonl", documents)
    asked = [{"_id": f"q{i}", "text": t} for i, t in enumerate(["river stone", "winter lamp"])]
    tiny.write_jsonl(folder / "queries.jsonl", asked)
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq0\td001\t1\nq1\td002\t2\n"
    )


@pytest.mark.usefixtures("prefect_server")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_its_config_and_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = next(b for b in blocks("yaml") if "DATA/scifact" in b)
    beir(tmp_path / "data" / "scifact")
    (tmp_path / "scifact.yaml").write_text(config.replace("DATA", "data"))
    monkeypatch.chdir(tmp_path)
    commands = [
        line.removeprefix("$ rescore ")
        for block in blocks("console")
        for line in block.splitlines()
        if line.startswith("$ rescore ")
    ]
    assert len(commands) >= 5
    run_id = ""
    for command in commands:
        given = shlex.split(command.replace("RUN_ID", run_id[:8]))
        result = CliRunner().invoke(app, given)
        assert result.exit_code == 0, (command, result.output, result.exception)
        if "--json" in given:
            run_id = json.loads(result.stdout.splitlines()[-1])["run_id"]
    assert (tmp_path / "hybrid.trec").read_text().startswith("q0 Q0 ")


def test_every_dependency_earns_its_place_in_a_line() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[<>=\[ ]", d)[0] for d in project["dependencies"]]
    table = TEXT[TEXT.index("## Dependencies") :]
    assert [n for n in names if n.lower() not in table.lower()] == []


def test_every_command_is_mentioned() -> None:
    docs = "\n".join(p.read_text("utf-8") for p in [README, *(REPOSITORY / "docs").glob("*.md")])
    names = [c.name or c.callback.__name__ for c in app.registered_commands if c.callback]
    assert [n for n in names if f"rescore {n.replace('_', '-')}" not in docs] == []
