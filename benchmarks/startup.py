"""What a small command costs: CPU seconds beside the bare imports that it cannot do without.

    python -m benchmarks.startup [--rounds 3] [--repository FOLDER]

Each command runs in a process of its own on a job of 20 documents and 3 queries. Printed are the
medians of the rounds: of the command, of the imports measured beside it, and of the clock. Another
FOLDER is measured with its own .venv: that is how two versions are compared in one run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.table import Table

COMPLETE = "_RESCORE_COMPLETE"  # the variable that a shell sets to ask for completions
SEASONS = ["winter", "summer", "autumn", "spring"]
CONFIG = """\
database: db.lancedb
documents:
  source: {format: jsonl, path: documents.jsonl}
  encoder: {model: "builtin:all-MiniLM-L6-v2"}
queries:
  query_set: startup
  source: {format: jsonl, path: queries.jsonl}
search: {query_types: [vector, fts, hybrid], limit: 10}
rerank: {model_name: "builtin:minilm-reranker"}
"""


def write_job(folder: Path) -> Path:
    """Write 20 documents, 3 queries and a config; the config."""
    texts = [f"River stones number {i} on {SEASONS[i % 4]} evenings." for i in range(20)]
    documents = [{"doc_id": f"d{i}", "text": text} for i, text in enumerate(texts)]
    asked = ["winter lamp", "river stone", "spring evenings"]
    queries = [{"query_id": f"q{i}", "text": text} for i, text in enumerate(asked)]
    for name, rows in (("documents", documents), ("queries", queries)):
        lines = (json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    (folder / "config.yaml").write_text(CONFIG, "utf-8")
    return folder / "config.yaml"


def measure(
    command: list[str],
    folder: Path,
    repository: Path,
    code: int = 0,
    more: Mapping[str, str] = MappingProxyType({}),
) -> tuple[float, ...]:
    """CPU seconds and seconds on the clock of one process and its children."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    env |= {"PREFECT_HOME": str(folder / "prefect"), "HF_HUB_OFFLINE": "1"}
    env["PYTHONPATH"] = str(repository)
    # A cache of its own: the first job checks both models and times kernels.
    env |= {"RESCORE_CACHE": str(folder / "cache"), **more}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    clock, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != code:
        raise SystemExit(f"{command} ended with {done.returncode}: {done.stderr[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, clock


def _run_id(command: list[str], folder: Path, repository: Path) -> str:
    env = os.environ | {"PYTHONPATH": str(repository)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, check=True, text=True)
    listed = json.loads(done.stdout.splitlines()[-1])
    return str(listed[0]["run_id"])


def bench(repository: Path, rounds: int) -> list[dict[str, Any]]:
    """Measure every command beside the imports that it needs; one row each.

    Both are measured in turn, in each round, so that other work on the machine slows both.
    """
    python = repository / ".venv" / "bin" / "python"
    name = str(python) if python.exists() else sys.executable
    rows: list[dict[str, Any]] = []

    def add(
        what: str,
        commands: Sequence[list[str]],
        imports: str | None,
        more: float | None,
        code: int = 0,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        bare: list[tuple[float, ...]] = []
        made: list[tuple[float, ...]] = []
        for command in commands:
            if imports:
                bare.append(measure([name, "-c", f"import {imports}"], folder, repository))
            made.append(measure(command, folder, repository, code, variables))
        cpu, clock = (statistics.median(column) for column in zip(*made, strict=True))
        floor = statistics.median(row[0] for row in bare) if bare else 0.0
        bound = None if more is None else floor + more
        rows.append({"what": what, "cpu": cpu, "imports": floor, "bound": bound, "clock": clock})

    def rescore(*arguments: str) -> list[str]:
        return [name, "-m", "flows.cli", *arguments]

    with tempfile.TemporaryDirectory() as made_folder:
        folder = Path(made_folder)
        config = str(write_job(folder))

        def same(*arguments: str) -> list[list[str]]:
            return [rescore(*arguments)] * rounds

        add("--help", same("--help"), None, 1.0)
        add("--version", same("--version"), None, 1.0)
        add("a faulty config", same("run", config, "--set", "nonsense=1"), None, 1.0, code=2)
        add("the first job with a model", [rescore("run", config)], None, None)
        for number in range(rounds):  # each one a job of its own, of a model checked before
            fresh = folder / f"fresh-{number}"
            fresh.mkdir()
            write_job(fresh)
        jobs = [rescore("run", f"fresh-{i}/config.yaml") for i in range(rounds)]
        add("a tiny new job", jobs, "lancedb, torch", 6)
        add("an unchanged repeat of run", same("run", config), "lancedb", 2.5)
        add("ingest of nothing new", same("ingest", config), "lancedb", 1.5)
        add("runs", same("runs", "--config", config), "lancedb", 0.7)
        run_id = _run_id(rescore("runs", "--config", config, "--json"), folder, repository)
        add("show", same("show", run_id, "--config", config), "lancedb", 0.7)
        export = ["export", run_id, "--config", config, "--format", "parquet", "--out", "x.parquet"]
        add("export", same(*export), "lancedb", 0.7)
        asked = {"COMP_WORDS": "rescore ru", "COMP_CWORD": "1", COMPLETE: "complete_bash"}
        complete = [[str(Path(name).parent / "rescore")]] * rounds
        add("completion of a word", complete, None, 0.3, variables=asked)
    return rows


def main() -> None:
    """Print the table of this repository, or of another one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repository", type=Path, default=Path(__file__).parents[1])
    args = parser.parse_args()
    table = Table(title="Start-up")
    for column in ("what", "CPU s", "imports", "bound", "clock s"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in bench(args.repository.resolve(), args.rounds):
        bound = "" if row["bound"] is None else f"{row['bound']:.2f}"
        imports = f"{row['imports']:.2f}" if row["imports"] else ""
        table.add_row(row["what"], f"{row['cpu']:.2f}", imports, bound, f"{row['clock']:.1f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
