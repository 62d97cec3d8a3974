"""What reaches the terminal: characters that steer it are shown, not sent."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from rich.text import Text
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.console import echo, printable
from flows.commands.tables import add_row, new_table, show
from reranking.schemas import QUERIES
from reranking.store import Database
from tests.conftest import REPOSITORY

HOSTILE = [
    "\x1b[2J\x1b[H",  # clears the screen
    "\x1b]52;c;Z2VoZWlt\x07",  # fills the clipboard
    "\x9b31m",  # the same introducer in one character
    "a\rb",
    "a\bb",
    "a\tb",
    "\x7f",
    "\u202egnp.exe",
    "\u2066x",
]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_everything_that_prints_shows_controls(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = new_table(text, ["a", text])
    add_row(table, text, Text(text, style="bold"))
    show(table, Text(text))
    echo(text)
    echo(text, err=True)
    echo(json.dumps({"text": text}).replace("\x7f", "\\u007f"))
    shown = capsys.readouterr()
    steering = {c for c in shown.out + shown.err if printable(c) != c}
    assert steering == set()
    assert json.loads(shown.out.splitlines()[-1]) == {"text": text}
    assert printable(text) in shown.err


def test_line_ends_and_other_scripts_stay() -> None:
    assert printable("zwölf\n日本語 🦊 عربى") == "zwölf\n日本語 🦊 عربى"


def test_an_error_that_quotes_the_command_line_is_printable_and_masked(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["run", str(tmp_path / "\x1b[2Jx.yaml")])
    assert shown.exit_code == 2 and "\x1b" not in shown.output
    uri = "https://user:geheim/x@host/db"
    shown = CliRunner().invoke(app, ["runs", "--database", uri])
    assert shown.exit_code == 2 and "geheim" not in shown.output


def test_nothing_prints_past_the_one_function() -> None:
    for path in sorted((REPOSITORY / "flows").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                own = path.name == "console.py" and called == "typer.echo"
                assert own or called not in ("print", "typer.echo", "click.echo"), path


@pytest.mark.parametrize(
    "form", [[], pytest.param(["--json"], marks=pytest.mark.slow)], ids=["table", "json"]
)
def test_a_pipe_that_nobody_reads_any_more_ends_a_command_without_a_word(
    form: list[str], tmp_path: Path
) -> None:
    queries = [
        {"query_set": "q", "query_id": str(i), "text": "a", "text_hash": bytes(16)}
        for i in range(2000)
    ]
    Database(str(tmp_path)).append("queries", pa.Table.from_pylist(queries, QUERIES))
    read, write = os.pipe()
    command = [sys.executable, "-m", "flows.cli", "queries", "show", "q", "--database"]
    started = subprocess.Popen(
        [*command, str(tmp_path), *form], cwd=REPOSITORY, stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    os.close(read)
    _, told = started.communicate()
    assert (started.returncode, told) == (141, b"")
