"""Dockerfile and compose.yaml, as far as they can be checked without building them."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY

DOCKERFILE = (REPOSITORY / "Dockerfile").read_text("utf-8")
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    composed: dict[str, Any] = yaml.safe_load((REPOSITORY / "compose.yaml").read_text("utf-8"))
    named = (
        {v.partition(":")[0] for s in composed["services"].values() for v in s["volumes"]}
        if (all("volumes" in s for s in composed["services"].values()))
        else set()
    )
    assert {n for n in named if not n.startswith(".")} <= set(composed["volumes"])
    services: dict[str, Any] = composed["services"]
    return services


def test_what_is_copied_exists_and_holds_every_package() -> None:
    copied = re.findall(r"^COPY (.+)$", DOCKERFILE, flags=re.MULTILINE)
    sources = [name for line in copied for name in line.split()[:-1]]
    assert all((REPOSITORY / name).exists() for name in sources)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {p.rstrip("*") for p in packages} <= set(sources)
    assert {project["project"]["readme"], *project["project"]["license-files"]} <= set(sources)
    extras = re.search(r"-e '\.\[(.+?)\]'", DOCKERFILE)
    assert extras and set(extras[1].split(",")) <= set(project["project"]["optional-dependencies"])
    ignored = (REPOSITORY / ".dockerignore").read_text("utf-8").split()
    assert not set(sources) & set(ignored)


def test_services_name_each_other_and_commands_that_exist(services: dict[str, Any]) -> None:
    for name, service in services.items():
        wanted = service.get("depends_on", [])
        assert set(wanted) <= set(services), name
        for program in service.get("entrypoint", []):
            assert (BIN / program).is_file(), (name, program)
    server = services["server"]["environment"]["PREFECT_API_DATABASE_CONNECTION_URL"]
    assert server.startswith("postgresql+asyncpg://prefect:") and "@postgres:" in server


@pytest.mark.slow
@pytest.mark.parametrize("name", ["server", "worker", "tools"])
def test_its_commands_are_understood(services: dict[str, Any], name: str) -> None:
    """The options are known to the installed programs: `--help` behind them is reached."""
    service = services[name]
    words = [w for w in service["command"] if w != "--help"]
    command = [str(BIN / service["entrypoint"][0]), *words, "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "Usage" in done.stdout, done.stderr


def test_the_asynchronous_driver_of_postgres_comes_with_prefect() -> None:
    from importlib.metadata import version

    assert version("asyncpg")
