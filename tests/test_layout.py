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
    "flows": {"flows", "tasks", "reranking", "configs"},
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


# From the ground up: each may import those before it, and none of its own row but itself.
FLOORS = [
    {
        "errors",
        "budget",
        "schemas",
        "fingerprints",
        "arrow",
        "files",
        "progress",
        "numbers",
        "notebook",
        "retry",
        "spreadsheets",
        "damage",
        "reading",
        "compaction",
        "memory",
    },
    {"store"},
    {"sources"},
    {"models"},
    {"scoring"},
    {"corpus"},
    {"judgments"},
    {"runs"},
    {"reranker", "steps", "workers"},
    {"encoding", "pipeline", "summary"},
    {"ad_hoc"},
    {"evaluation", "labelling", "upkeep"},
    {"report"},
    {"reevaluation", "chunks", "maintenance", "forecast"},
    {"bakeoff"},
    {"order"},
]
# The pipeline names all steps, those of the peers included: it imports them when it is asked.
# A run's own measures and comparisons likewise: what people ask of a run is asked at the run.
LATE = {"pipeline"}


def test_imports_run_downwards() -> None:
    floor = {name: number for number, row in enumerate(FLOORS) for name in row}
    wrong = []
    for path in (REPOSITORY / "reranking").rglob("*.py"):
        own = path.relative_to(REPOSITORY).with_suffix("").parts[1]
        if own == "__init__":
            continue
        for name in {n.split(".")[1] for n in imported(path) if n.startswith("reranking.")}:
            late = own in LATE or path == REPOSITORY / "reranking" / "runs" / "run.py"
            if name != own and floor[name] >= floor[own] and not late and own not in FLOORS[0]:
                wrong.append(f"{path.relative_to(REPOSITORY)} imports {name}")
    assert not wrong


def test_no_flow_imports_a_flow() -> None:
    flows = {p.stem for p in (REPOSITORY / "flows").glob("*.py")} - {"cli", "__init__"}
    for path in (REPOSITORY / "flows").glob("*.py"):
        names = {n.partition(".")[2] for n in imported(path) if n.startswith("flows.")}
        assert path.stem == "cli" or not names & flows, path


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


def test_every_package_says_what_is_in_it() -> None:
    for folder in {p.parent for p in FILES}:
        assert ast.get_docstring(ast.parse((folder / "__init__.py").read_text())), folder


def test_no_test_module_imports_another() -> None:
    for path in (REPOSITORY / "tests").rglob("*.py"):
        others = [n for n in imported(path) if n.startswith("tests.") and ".test_" in n]
        assert not others, f"{path} imports {others}"
