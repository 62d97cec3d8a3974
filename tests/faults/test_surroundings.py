"""Somebody else's machine: folders, proxies, locales and terminals, in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from tests.support import tiny
from tests.support.faulty import fill

ROOT = Path(__file__).parents[2]
# Root may write everywhere: without these it is a user like others.
PLAIN = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner"]


def ask(*arguments: object, bare: bool = False, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command with an environment of only these variables."""
    given = {"PATH": "/usr/bin", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **env}
    command = [sys.executable, "-m", "flows.cli", *(str(a) for a in arguments)]
    if bare and os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may write everywhere, and setpriv is not there to change that")
        command = [*PLAIN, *command]
    return subprocess.run(command, env=given, capture_output=True, text=True, encoding="utf-8")


@pytest.fixture
def config(tmp_path: Path, cross_encoder: Path) -> Path:
    documents = [*tiny.documents(20), {**tiny.documents(1)[0], "doc_id": "\u96ea\u2014\u00e9"}]
    tiny.write_jsonl(tmp_path / "documents.jsonl", documents)
    tiny.write_jsonl(tmp_path / "queries.jsonl", tiny.queries(["river stone"]))
    return tiny.write_config(tmp_path, cross_encoder)


SURROUNDINGS = [
    {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"},
    {"ALL_PROXY": "socks5://127.0.0.1:9"},
    {"LC_ALL": "C", "COLUMNS": "40", "NO_COLOR": "1"},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "cp1252"},
    {"HOME": "/nowhere"},
    {"HOME": "/nowhere", "PREFECT_HOME": "/nowhere/prefect", "RESCORE_CACHE": "/nowhere/c"},
]
AT_ONCE = {key: value for env in SURROUNDINGS for key, value in env.items()}


@pytest.mark.slow
@pytest.mark.parametrize("env", [AT_ONCE, *SURROUNDINGS])
def test_a_job_does_not_mind(config: Path, env: dict[str, str]) -> None:
    done = ask("run", config, **env)
    assert done.returncode == 0, done.stderr
    assert "finished" not in done.stdout and "results_" in done.stdout
    again = ask("ingest", config, "--json", **env)
    assert json.loads(again.stdout)["unchanged"] == 21


def test_a_socks_proxy_without_its_package_is_told_before_a_server_is_started(
    config: Path,
) -> None:
    pytest.importorskip("prefect")
    try:
        import socksio  # noqa: F401
    except ImportError:
        done = ask("ingest", config, "--server", ALL_PROXY="socks5://127.0.0.1:9")
        assert done.returncode == 3
        assert "ALL_PROXY names a SOCKS proxy" in done.stderr
        assert "pip install socksio" in done.stderr


@pytest.mark.parametrize(
    "place", ["a file", pytest.param("a closed folder", marks=pytest.mark.slow)]
)
def test_a_database_that_cannot_be_made(config: Path, tmp_path: Path, place: str) -> None:
    folder = tmp_path / "closed"
    if place == "a file":
        folder.write_text("")
    else:
        folder.mkdir(mode=0o555)
    done = ask("ingest", config, "--set", f"database={folder / 'db'}", bare=True)
    assert done.returncode == 3, done.stderr
    told = done.stderr.splitlines()[-1]
    assert str(folder / "db") in told and "may write" in told and "`database`" in told


@pytest.mark.slow
def test_a_cache_folder_of_somebody_else(config: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o555)
    model = "rerank.model_name=builtin:minilm-reranker"
    done = ask("run", config, "--set", model, bare=True, RESCORE_CACHE=str(cache))
    assert done.returncode == 3, done.stderr
    told = done.stderr.splitlines()[-1]
    assert f"{cache}/models (RESCORE_CACHE) cannot be written" in told
    assert "Set RESCORE_CACHE to a folder of your own" in told


@pytest.mark.slow
def test_a_full_disk_under_the_cache_costs_the_memory_alone(config: Path, disk: Path) -> None:
    """What a load check showed cannot be kept: the job is done all the same."""
    fill(disk, leave=0)
    done = ask("run", config, RESCORE_CACHE=str(disk / "cache"))
    assert done.returncode == 0, done.stderr
    assert not list(disk.glob("cache/*/*"))


@pytest.mark.slow
def test_a_user_without_a_name_or_a_home(config: Path, tmp_path: Path) -> None:
    """A container that is started with a random user id."""
    alone = ["unshare", "--user", "--map-user=54321"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"]).returncode:
        pytest.skip("another user id needs unshare and user namespaces")
    env = {"PATH": "/usr/bin", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [*alone, sys.executable, "-m", "flows.cli", "run", str(config)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built = [*command, "--set", "rerank.model_name=builtin:minilm-reranker"]
    told = subprocess.run(built, env=env, capture_output=True, text=True)
    assert told.returncode == 3
    assert "so there is no cache folder: set RESCORE_CACHE" in told.stderr


def test_a_folder_for_temporary_files_that_is_not_there(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "gone"))
    done = CliRunner().invoke(app, ["ingest", str(config)])
    assert done.exit_code == 3
    assert f"{tmp_path / 'gone'} (TMPDIR) is no folder that can be written" in done.stderr


@pytest.mark.parametrize("command", [[], ["show"]])
def test_help_is_printed_where_its_characters_are_unknown(command: list[str]) -> None:
    done = ask(*command, "--help", PYTHONIOENCODING="ascii", COLUMNS="40")
    assert done.returncode == 0, done.stderr
    assert "Usage:" in done.stdout


@pytest.mark.slow
def test_the_doctor_tells_it_in_one_page_without_secrets(config: Path, tmp_path: Path) -> None:
    env = {
        "HTTP_PROXY": "http://user:hunter2@127.0.0.1:9",
        "PREFECT_API_URL": "http://user:hunter2@127.0.0.1:9/api",
        "PREFECT_API_KEY": "hunter3",
        "RESCORE_CACHE": str(tmp_path / "cache"),
    }
    done = ask("doctor", config, **env)
    assert done.returncode == 3, done.stderr
    assert "hunter" not in done.stdout + done.stderr
    for word in ("Python 3", "HTTP_PROXY", "127.0.0.1:9/api", "RESCORE_CACHE", "does not answer"):
        assert word in done.stdout
    assert len(done.stdout.splitlines()) < 40
