"""What need not be named: the usual config, and the completion of runs' ids and promoted names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import typer

VARIABLE = "RESCORE_CONFIG"
FILE = Path("rescore.yaml")
COMPLETES = "_RESCORE_COMPLETE"  # which a shell sets to ask for completions


def usual_config() -> Path | None:
    """Return the config that is meant where none is named; None if there is none."""
    given = os.environ.get(VARIABLE)
    if given:
        return Path(given)
    return FILE if FILE.is_file() else None


def need_config() -> Path:
    """Return the usual config and say which it is; typer.BadParameter if there is none.

    A shell that asks for completions evaluates defaults, too: it is told nothing.
    """
    from flows.commands.console import echo

    path = usual_config()
    if COMPLETES in os.environ:
        return path or FILE
    if path is None:
        raise typer.BadParameter(
            f"no config is named: give CONFIG, set {VARIABLE}, or work in a folder with a {FILE}"
        )
    echo(f"config: {path} ({VARIABLE if os.environ.get(VARIABLE) else 'of this folder'})", err=True)
    return path


def complete_run(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Return the ids and promoted names that begin so, each with what it is.

    The database is that of --database, --config or the usual config; without one, and whatever
    goes wrong, nothing is completed.
    """
    try:
        return [pair for pair in _runs(ctx) if pair[0].startswith(incomplete)]
    except Exception:  # a completion that fails must not write into the command line
        return []


def _runs(ctx: typer.Context) -> Iterator[tuple[str, str]]:
    from configs.load import load_config
    from reranking.store import Database

    given = ctx.params
    uri = given.get("database")
    if uri is None:
        config = given.get("config") or usual_config()
        if config is None:
            return
        uri = load_config(Path(config)).database
    database = Database(str(uri), must_exist=True)
    columns = ["run_id", "status", "query_set", "started_at"]
    rows = {r["run_id"]: r for r in database.read("runs", columns=columns).to_pylist()}
    for row in database.read("promotions", columns=["name", "run_id"]).to_pylist():
        yield row["name"], f"run {row['run_id'][:8]}"
    for row in sorted(rows.values(), key=lambda r: r["started_at"], reverse=True):
        yield row["run_id"][:8], f"{row['query_set']}, {row['started_at']:%Y-%m-%d %H:%M}"
