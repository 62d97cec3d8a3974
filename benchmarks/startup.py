"""What a small command costs: CPU seconds beside the bare imports that it cannot do without.

    python -m benchmarks.startup [--rounds 3] [--repository FOLDER]

Each command runs in a process of its own on a job of 20 documents and 3 queries; the median of the
rounds is printed, with the bound and the seconds on the clock. Another FOLDER is measured with its
own .venv: that is how two versions are compared in one run.
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
from collections.abc import Mapping
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


def median(
    rounds: int,
    command: list[str],
    folder: Path,
    repository: Path,
    code: int,
    more: Mapping[str, str],
) -> tuple[float, ...]:
    """Medians of CPU seconds and seconds on the clock."""
    made = [measure(command, folder, repository, code, more) for _ in range(rounds)]
    return tuple(statistics.median(column) for column in zip(*made, strict=True))


def _run_id(command: list[str], folder: Path, repository: Path) -> str:
    env = os.environ | {"PYTHONPATH": str(repository)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, check=True, text=True)
    listed = json.loads(done.stdout.splitlines()[-1])
    return str(listed[0]["run_id"])


def bench(repository: Path, rounds: int) -> list[dict[str, Any]]:
    """Measure the bare imports and every command; one row each."""
    python = repository / ".venv" / "bin" / "python"
    name = str(python) if python.exists() else sys.executable
    rows: list[dict[str, Any]] = []

    def add(
        what: str,
        arguments: list[str],
        bound: float | None,
        code: int = 0,
        n: int = 0,
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        command = arguments if COMPLETE in more else [name, *arguments]
        cpu, clock = median(n or rounds, command, folder, repository, code, more)
        rows.append({"what": what, "cpu": cpu, "clock": clock, "bound": bound})

    def rescore(*arguments: str) -> list[str]:
        return ["-m", "flows.cli", *arguments]

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        config = str(write_job(folder))
        add("import lancedb", ["-c", "import lancedb"], None)
        add("import lancedb, torch", ["-c", "import lancedb, torch"], None)
        lancedb, torch = rows[0]["cpu"], rows[1]["cpu"]
        add("--help", rescore("--help"), 1.0)
        add("--version", rescore("--version"), 1.0)
        add("a faulty config", rescore("run", config, "--set", "nonsense=1"), 1.0, code=2)
        add("the first job with a model", rescore("run", config), None, n=1)
        for number in range(rounds):  # each one a job of its own, of a model checked before
            fresh = folder / f"fresh-{number}"
            fresh.mkdir()
            write_job(fresh)
        jobs = [
            measure([name, *rescore("run", f"fresh-{i}/config.yaml")], folder, repository)
            for i in range(rounds)
        ]
        cpu, clock = (statistics.median(column) for column in zip(*jobs, strict=True))
        rows.append({"what": "a tiny new job", "cpu": cpu, "clock": clock, "bound": torch + 6})
        add("an unchanged repeat of run", rescore("run", config), lancedb + 2.5)
        add("ingest of nothing new", rescore("ingest", config), lancedb + 1.5)
        add("runs", rescore("runs", "--config", config), lancedb + 0.7)
        run_id = _run_id([name, *rescore("runs", "--config", config, "--json")], folder, repository)
        add("show", rescore("show", run_id, "--config", config), lancedb + 0.7)
        export = ["export", run_id, "--config", config, "--format", "parquet", "--out", "x.parquet"]
        add("export", rescore(*export), lancedb + 0.7)
        asked = {"COMP_WORDS": "rescore ru", "COMP_CWORD": "1", COMPLETE: "complete_bash"}
        add("completion of a word", [str(Path(name).parent / "rescore")], 0.3, more=asked)
    return rows


def main() -> None:
    """Print the table of this repository, or of another one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repository", type=Path, default=Path(__file__).parents[1])
    args = parser.parse_args()
    table = Table(title="Start-up")
    for column in ("what", "CPU s", "bound", "clock s"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in bench(args.repository.resolve(), args.rounds):
        bound = "" if row["bound"] is None else f"{row['bound']:.1f}"
        table.add_row(row["what"], f"{row['cpu']:.2f}", bound, f"{row['clock']:.1f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
