"""The shape of the project: who may import whom, what --help costs, what packages contain."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

OURS = {"flows", "tasks", "reranking", "configs"}
ALLOWED = {
    "flows": {"flows", "tasks", "configs"},
    "tasks": {"tasks", "reranking", "configs"},
    "reranking": {"reranking", "configs"},
    "configs": {"configs"},
}
FILES = sorted(p for name in OURS for p in (REPOSITORY / name).rglob("*.py"))


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return names


def test_packages_import_only_what_they_may() -> None:
    for path in FILES:
        package = path.relative_to(REPOSITORY).parts[0]
        roots = {name.partition(".")[0] for name in imported(path)}
        assert not (roots & OURS) - ALLOWED[package], path
        if package in ("reranking", "configs"):
            assert "prefect" not in roots, path


LEVELS = (
    {"errors", "retry", "schemas", "fingerprints", "arrow", "files", "format", "progress", "store"},
    *({name} for name in ("sources", "models", "scoring", "corpus", "judgments", "runs")),
    {"reranker"},
    {"evaluation", "labelling", "upkeep"},
    {"report"},
)


def test_the_library_imports_downwards_and_peers_know_nothing_of_each_other() -> None:
    level = {name: number for number, names in enumerate(LEVELS) for name in names}
    for path in (REPOSITORY / "reranking").rglob("*.py"):
        own = path.relative_to(REPOSITORY / "reranking").parts[0].removesuffix(".py")
        for name in imported(path):
            other = name.split(".")[1] if name.startswith("reranking.") else own
            if own in level and other in level and other != own:
                ground = level[own] == level[other] == 0
                assert ground or level[other] < level[own], f"{path}: {name}"


def test_no_flow_imports_a_flow() -> None:
    flows = {p.stem for p in (REPOSITORY / "flows").glob("*.py")}
    helpers = {p for p in flows if p.startswith("commands_") or p.endswith("tables")}
    helpers |= {"cli", "console", "quickstart", "__init__"}
    for path in (REPOSITORY / "flows").glob("*.py"):
        if path.stem not in helpers:
            found = {n.partition(".")[2] for n in imported(path) if n.startswith("flows.")}
            assert not found & (flows - helpers), path


def test_flow_files_shadow_no_package() -> None:
    """Prefect's loader puts flows/ first on the path: a file's name must be nobody's package."""
    used = {name.partition(".")[0] for path in FILES for name in imported(path)}
    for path in (REPOSITORY / "flows").glob("*.py"):
        assert path.stem not in (used | {"evaluate", "datasets", "lance"}) - {"flows", "__future__"}


@pytest.mark.parametrize("command", [[], ["run"], ["export"]])
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    code = (
        "import sys\nfrom flows.cli import app\n"
        f"try: app({[*command, '--help']!r})\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'torch', 'lancedb', 'prefect', 'pyarrow', 'polars', 'transformers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_the_library_imports_no_heavy_edge_where_it_is_pure() -> None:
    pure = [
        "runs.ranking",
        "schemas",
        "fingerprints",
        "corpus.documents",
        "corpus.ids",
        "arrow",
        "errors",
    ]
    modules = ", ".join(f"reranking.{name}" for name in pure)
    code = f"import sys, {modules}\nassert not {{'torch', 'lancedb'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_files_stay_readable() -> None:
    long = {str(p): n for p in FILES if (n := len(p.read_text("utf-8").splitlines())) > 400}
    assert not long


def test_every_package_has_its_init() -> None:
    for folder in {p.parent for p in FILES}:
        assert (folder / "__init__.py").exists(), folder


def test_the_server_of_prefect_can_be_imported() -> None:
    """A fastapi outside of the pinned range breaks Prefect's server at import."""
    subprocess.run([sys.executable, "-c", "import prefect.server.api.server"], check=True)
