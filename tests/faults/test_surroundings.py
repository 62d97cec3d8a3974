"""Somebody else's machine: folders, proxies, locales and terminals, in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import tiny

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


@pytest.mark.parametrize("place", ["a file", "a closed folder"])
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
