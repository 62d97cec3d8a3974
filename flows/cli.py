"""The command line. Heavy libraries are imported by the commands that need them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import flows.commands.evaluation  # noqa: F401 - its commands register themselves
import flows.commands.labelling  # noqa: F401 - its commands register themselves
import flows.commands.report  # noqa: F401 - its commands register themselves
import flows.commands.upkeep  # noqa: F401 - its commands register themselves
from flows.commands import operations
from flows.commands.console import (
    AllowRejects,
    AsJson,
    ConfigFile,
    ConfigOption,
    DatabaseOption,
    Overrides,
    RunId,
    app,
    calm_prefect,
    command,
    database_uri,
    exit_code,
    read_config,
    say,
)
from reranking.errors import EXIT_DONE, ConfigError, GateFailed

if TYPE_CHECKING:
    from configs.schema import Config


@command
def ingest(
    config: ConfigFile,
    set: Overrides = None,
    allow_rejects: AllowRejects = False,
    as_json: AsJson = False,
) -> int:
    """Bring the documents table in line with its source."""
    settings = read_config(config, set)
    if settings.documents.source is None:
        raise ConfigError("the config has no documents.source: there is nothing to ingest")
    calm_prefect()
    from flows.commands.tables import ingest_table, show
    from flows.ingest import ingest as flow

    report = flow(settings)
    say({"status": "done", **report}) if as_json else show(ingest_table(report))
    return exit_code(report["rejected"], allow_rejects)


@command
def run(
    config: ConfigFile,
    set: Overrides = None,
    force: Annotated[bool, typer.Option("--force", help="compute again what is there")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what it would cost")] = False,
    allow_rejects: AllowRejects = False,
    as_json: AsJson = False,
) -> int:
    """Ingest what changed, search, rerank, publish, and evaluate where judgments are given."""
    if dry_run:
        calm_prefect()
        return operations.dry_run(read_config(config, set), as_json)
    values = _run(read_config(config, set), force, as_json)
    return exit_code(values["rejected"], allow_rejects)


def _run(settings: Config, force: bool, as_json: bool) -> dict[str, Any]:
    calm_prefect()
    from flows.rescore import rescore

    try:
        values = rescore(settings, force)
    except GateFailed as failed:
        _show_run(failed.values, as_json)
        raise
    _show_run(values, as_json)
    return values


def _show_run(values: dict[str, Any], as_json: bool) -> None:
    from flows.commands.tables import measures_table, run_table, show
    from flows.commands.verdict_tables import gates_table

    if as_json:
        say(values)
    else:
        show(run_table(values), measures_table(values["measures"]), gates_table(values["gates"]))
        if values["report"]:
            typer.echo(f"Report: {values['report']}")


@command
def quickstart(
    folder: Annotated[
        Path, typer.Argument(help="where the database and the config are put")
    ] = Path("quickstart"),
    as_json: AsJson = False,
) -> int:
    """Ingest the Python documentation, answer 209 questions, and show what reranking changes."""
    from flows.commands.preset import prepare

    config = prepare(folder)
    values = _run(read_config(config, None), False, as_json)
    if not as_json:
        typer.echo(f"\nNext: rescore show {values['run_id'][:8]} --config {config}")
    return exit_code(values["rejected"], False)


@command
def runs(
    config: ConfigOption = None, database: DatabaseOption = None, as_json: AsJson = False
) -> int:
    """List the runs of a database, newest first."""
    from flows.commands import catalog
    from flows.commands.tables import runs_table, show

    rows = catalog.runs(database_uri(config, database))
    say(rows) if as_json else show(runs_table(rows))
    return EXIT_DONE


@command
def show(
    run_id: RunId,
    config: ConfigOption = None,
    database: DatabaseOption = None,
    as_json: AsJson = False,
) -> int:
    """Show one run: inputs, fingerprints, counts, times, measures."""
    from flows.commands import catalog
    from flows.commands.tables import details_tables
    from flows.commands.tables import show as draw

    row = catalog.run(database_uri(config, database), run_id)
    say(row) if as_json else draw(*details_tables(row))
    return EXIT_DONE


@command
def export(
    run_id: RunId,
    format: Annotated[str, typer.Option("--format", help="trec, parquet, csv or jsonl")],
    out: Annotated[Path, typer.Option("--out", help="file to write")],
    query_type: Annotated[
        str | None, typer.Option("--query-type", help="vector, fts or hybrid")
    ] = None,
    config: ConfigOption = None,
    database: DatabaseOption = None,
    as_json: AsJson = False,
) -> int:
    """Write a run's results to a file."""
    from flows.commands import catalog

    uri = database_uri(config, database)
    rows = catalog.export(uri, run_id, format, out, query_type)
    say({"rows": rows, "file": str(out)}) if as_json else typer.echo(f"{rows} rows -> {out}")
    return EXIT_DONE


if __name__ == "__main__":
    sys.exit(app())
