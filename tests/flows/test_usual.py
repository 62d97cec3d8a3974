"""What need not be typed: the usual config, ids and names that complete, names that are near."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.commands.panels import panel_of
from reranking.runs.promotion import promote
from tests.support import tiny
from tests.support.walk import walk_file


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> tuple[Path, str]:
    """A config called rescore.yaml, and the id of its run, which is promoted."""
    folder = tmp_path_factory.mktemp("usual")
    tiny.write_jsonl(folder / "documents.jsonl", tiny.documents(15))
    tiny.write_jsonl(folder / "queries.jsonl", tiny.queries(["river stone"]))
    config = tiny.write_config(folder, cross_encoder, search__query_types=["fts"])
    run, _ = walk_file(config)
    promote(run.database, run.run_id, "production")
    return config.rename(folder / "rescore.yaml"), run.run_id


def test_the_usual_config_is_taken_and_said(
    made: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = made
    monkeypatch.delenv("RESCORE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    nothing = CliRunner().invoke(app, ["runs"])
    assert nothing.exit_code == 2 and "--config FILE or --database URI" in nothing.stderr
    missing = CliRunner().invoke(app, ["run"])
    assert missing.exit_code == 2 and "RESCORE_CONFIG" in missing.stderr
    monkeypatch.chdir(config.parent)
    for command in (["runs"], ["show", run[:8]], ["run"]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0 and "config: rescore.yaml (of this folder)" in done.stderr
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RESCORE_CONFIG", str(config))
    done = CliRunner().invoke(app, ["runs"])
    assert done.exit_code == 0 and f"{config} (RESCORE_CONFIG)" in done.stderr


@pytest.mark.parametrize(
    "command",
    [["forget", "RUN"], ["maintain"], ["erase", "--query", "q000"], ["queries", "drop", "q"]],
)
def test_what_deletes_needs_it_named(
    made: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    config, run = made
    monkeypatch.setenv("RESCORE_CONFIG", str(config))
    asked = [run[:8] if word == "RUN" else word for word in command]
    assert CliRunner().invoke(app, asked).exit_code == 2


def test_a_name_that_is_nearly_right_is_asked_about(made: tuple[Path, str]) -> None:
    config = str(made[0])
    done = CliRunner().invoke(app, ["compare", "prodution", made[1], "--config", config])
    assert done.exit_code == 4 and "did you mean 'production'?" in done.stderr
    done = CliRunner().invoke(app, ["runs", "--confg", config])
    assert done.exit_code == 2 and "--config" in done.stderr
    done = CliRunner().invoke(app, ["run", config, "--set", "search.limt=3"])
    assert done.exit_code == 2 and "did you mean 'limit'?" in done.stderr


def test_ids_and_promoted_names_complete(made: tuple[Path, str]) -> None:
    config, run = made
    environment = os.environ | {
        "RESCORE_CONFIG": str(config),
        "_RESCORE_COMPLETE": "complete_bash",
        "COMP_WORDS": "rescore show ",
        "COMP_CWORD": "2",
    }
    command = shutil.which("rescore", path=str(Path(sys.executable).parent)) or "rescore"
    done = subprocess.run([command], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["production", run[:8]], done.stderr


@pytest.mark.parametrize(
    ("shell", "script"),
    [
        ("bash", ".bash_completions/rescore.sh"),
        ("zsh", ".zfunc/_rescore"),
        ("fish", ".config/fish/completions/rescore.fish"),
    ],
)
def test_each_shell_gets_a_script_that_asks_for_ids_and_names(
    made: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shell: str,
    script: str,
) -> None:
    config, run = made
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    installed = CliRunner().invoke(app, ["--install-completion", shell])
    assert installed.exit_code == 0, installed.output
    text = (tmp_path / script).read_text()
    assert f"complete_{shell}" in text and "_RESCORE_COMPLETE" in text
    asked = {
        "RESCORE_CONFIG": str(config),
        "_RESCORE_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "rescore show ",
        "COMP_CWORD": "2",
        "_TYPER_COMPLETE_ARGS": "rescore show ",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    told = CliRunner().invoke(app, [], env=asked, prog_name="rescore").output
    assert "production" in told and run[:8] in told, told


@pytest.mark.parametrize("there", [True, False])
def test_options_complete_without_a_word_with_the_usual_config_and_without_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RESCORE_CONFIG", raising=False)
    if there:
        Path("rescore.yaml").write_text("")
    for command in ("run", "doctor", "sweep"):
        words = {"COMP_WORDS": f"rescore {command} --se", "COMP_CWORD": "2"}
        asked = {"_RESCORE_COMPLETE": "complete_bash", **words}
        done = CliRunner().invoke(app, [], env=asked, prog_name="rescore")
        assert done.stdout.split() and set(done.stdout.split()) <= {"--set", "--server"}
        assert done.exception is None or isinstance(done.exception, SystemExit)
        assert done.stderr == ""


def test_every_command_is_in_a_group() -> None:
    names = [c.callback.__name__ for c in app.registered_commands if c.callback is not None]
    assert [n for n in names if panel_of(n) == "More"] == []
    assert names[:3] == ["quickstart", "doctor", "run"]
    text = CliRunner().invoke(app, ["--help"]).output
    assert text.index("First") < text.index("Is it better?") < text.index("Upkeep")
