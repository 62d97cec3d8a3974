"""Walks docs/bad-input.md: each line of its tables is tried, and no case is missing there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from reranking import errors
from reranking.errors import EXIT_DONE, EXIT_REJECTS, RescoreError
from tests.conftest import REPOSITORY
from tests.support import (
    bad_answers,
    bad_configs,
    bad_documents,
    bad_fields,
    bad_scale,
    bad_servers,
    bad_sources,
    bad_tables,
    tiny,
)
from tests.support.bad_bench import CASES, Bench

PAGE = REPOSITORY / "docs" / "bad-input.md"
REGISTERED = (
    bad_answers,
    bad_configs,
    bad_documents,
    bad_fields,
    bad_scale,
    bad_servers,
    bad_sources,
    bad_tables,
)


def lines() -> dict[str, tuple[str, int]]:
    """input -> (what happens, exit code) of all tables of the page."""
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (\d) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    found = {name: (happens, int(code)) for name, happens, code in rows}
    assert len(found) == len(rows)
    return found


LINES = lines()


def test_each_line_has_a_case_and_each_case_a_line() -> None:
    assert sorted(LINES) == sorted(CASES)
    assert len(LINES) > 80
    table_lines = [s for s in PAGE.read_text("utf-8").splitlines() if s.startswith("|")]
    assert len(table_lines) - len(LINES) == 2 * table_lines.count("|---|---|---|")


@pytest.mark.parametrize("name", LINES)
def test_a_line_is_true(name: str, tmp_path: Path, cross_encoder: Path) -> None:
    happens, code = LINES[name]
    outcome = CASES[name](Bench(tmp_path, cross_encoder))
    assert outcome.code == code, outcome.text
    if code != EXIT_DONE:
        for phrase in re.findall(r"`([^`]+)`", happens):
            assert phrase in outcome.text, outcome.text
    assert "Traceback" not in outcome.text
    assert len(outcome.text) < 3000


# The command line -------------------------------------------------------------------------------


class _Unforeseen(Exception):
    """What a library might raise."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ConfigError("two\nlines"), 2),
        (errors.MissingPrerequisite("no model"), 3),
        (errors.MissingResource("no table"), 4),
        (errors.InputError("bad rows"), 5),
        (errors.RuntimeFailure("disk full"), 6),
        (_Unforeseen("odd\n  thing"), 6),
        (OSError(28, "No space left on device"), 6),
        (MemoryError(), 6),
        (KeyError("x"), 6),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_error_has_its_exit_code(
    error: BaseException, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.cli import app
    from reranking.order import JOBS

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setitem(JOBS, "rescore", fail)
    path = tiny.write_config(tmp_path, Path("model"))
    shown = CliRunner().invoke(app, ["run", str(path)])
    assert shown.exit_code == code
    assert "Traceback" not in shown.output
    assert shown.stdout == ""
    if not isinstance(error, RescoreError | KeyboardInterrupt):
        where, told = shown.stderr.splitlines()
        assert where == "rescore: in this process, no Prefect server is configured"
        assert told.startswith(f"rescore: unexpected {type(error).__name__}: ")
        assert "RESCORE_TRACEBACK=1 shows where" in shown.stderr


def test_who_asks_is_shown_where_an_unforeseen_error_was_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from flows.cli import app
    from reranking.order import JOBS

    monkeypatch.setenv("RESCORE_TRACEBACK", "1")
    monkeypatch.setitem(JOBS, "rescore", lambda *_, **__: 1 / 0)
    shown = CliRunner().invoke(app, ["run", str(tiny.write_config(tmp_path, Path("model")))])
    assert shown.exit_code == 6
    told = shown.stderr + capfd.readouterr().err
    assert "Traceback" in told
    assert "test_bad_input.py" in told
    assert "rescore: unexpected ZeroDivisionError: division by zero" in told


def test_config_faults_end_a_command_before_anything_is_imported(tmp_path: Path) -> None:
    from flows.cli import app

    path = tmp_path / "config.yaml"
    path.write_text("database: db\nqueries: {query_set: q}\nsurprise: 1\n")
    for command in ("run", "ingest"):
        shown = CliRunner().invoke(app, [command, str(path)])
        assert shown.exit_code == 2
        assert shown.stderr.splitlines()[1:] == [
            "  documents: Field required",
            "  config: unknown key in line 3",
        ]


def test_rejects_may_be_allowed() -> None:
    from flows.commands.console import exit_code

    assert exit_code(0, False) == exit_code(0, True) == exit_code(3, True) == EXIT_DONE
    assert exit_code(3, False) == EXIT_REJECTS
