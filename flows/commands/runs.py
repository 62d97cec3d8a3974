"""Commands about the runs of a database: list, show, export, name, forget."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.console import (
    Answer,
    ConfigFile,
    ConfigOption,
    DatabaseOption,
    RunId,
    command,
    database_of,
    line,
    read_config,
)
from reranking.errors import ConfigError


@command
def runs(config: ConfigOption = None, database: DatabaseOption = None) -> Answer:
    """List the runs of a database, newest first."""
    opened = _open(config, database)
    from reranking.runs.promotion import promoted_names
    from reranking.runs.run import list_rows

    names = promoted_names(opened)
    rows = [row | {"promoted_as": names.get(row["run_id"], [])} for row in list_rows(opened)]
    return Answer(rows, _show_runs)


def _open(config: Path | None, database: str | None) -> Any:
    """Open the database that the options name."""
    uri, _ = database_of(config, database)
    from reranking.store import Database

    return Database(uri, must_exist=True)


def _show_runs(rows: list[dict[str, Any]]) -> None:
    from flows.commands.tables import runs_table, show

    show(runs_table(rows))


@command
def show(run_id: RunId, config: ConfigOption = None, database: DatabaseOption = None) -> Answer:
    """Show one run: inputs, fingerprints, counts, times, measures."""
    opened = _open(config, database)
    from reranking.evaluation.run_measures import stored_means
    from reranking.runs.promotion import promoted_names
    from reranking.runs.run import find_run

    row = find_run(opened, run_id).stored
    promoted = promoted_names(opened).get(row["run_id"], [])
    measures = stored_means(opened, row["run_id"])
    return Answer(row | {"promoted_as": promoted, "measures": measures}, _show_run)


def _show_run(row: dict[str, Any]) -> None:
    from flows.commands.tables import details_tables
    from flows.commands.tables import show as draw

    draw(*details_tables(row))


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
) -> Answer:
    """Write a run's results to a file."""
    opened = _open(config, database)
    from reranking.runs.export import export_results
    from reranking.runs.run import find_run

    rows = export_results(find_run(opened, run_id), format, out, query_type)
    return Answer({"rows": rows, "file": str(out)}, line(f"{rows} rows -> {out}"))


@command
def promote(
    run_id: RunId,
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="e.g. production")],
    config: ConfigOption = None,
    database: DatabaseOption = None,
) -> Answer:
    """Give a finished run a name: the baseline of comparisons and gates, never forgotten."""
    opened = _open(config, database)
    from reranking.runs.promotion import promote as give_name

    promoted = give_name(opened, run_id, name)
    run, moved = promoted.run.run_id, promoted.moved
    values = {"run_id": run, "promoted_as": name, "vectors": None if moved is None else vars(moved)}
    text = f"run {run[:8]} is now {name}"
    if moved is not None:
        text += (
            f"\ntable {moved.table} has the vectors of encoder {moved.now[:8]} from now on; those "
            f"of {moved.before[:8]} are kept in {moved.kept}"
        )
    return Answer(values, line(text))


@command
def publish(run_id: RunId, config: ConfigFile) -> Answer:
    """Bring the consumers' table of a config to a finished run's results: also the way back."""
    settings = read_config(config, None)
    table = settings.results.publish
    if table is None:
        raise ConfigError("the config has no results.publish: there is no table for consumers")
    from reranking.runs.publish import publish_for_consumers
    from reranking.runs.run import find_run
    from reranking.store import Database

    run = find_run(Database(settings.database, must_exist=True), run_id)
    if run.status != "done":
        raise ConfigError(f"run {run.run_id[:8]} is {run.status}: only finished runs are published")
    changed = publish_for_consumers(run, table, settings.results.columns)
    opened = run.database.need(table)
    values = {
        "run_id": run.run_id,
        "table": table,
        "changed": changed,
        "rows": opened.count_rows(),
        "version": opened.version,
    }
    size = f"{values['rows']:,} rows, version {opened.version}"
    return Answer(values, line(f"table {table} holds run {run.run_id[:8]}: {size}"))


@command
def forget(run_id: RunId, config: ConfigOption = None, database: DatabaseOption = None) -> Answer:
    """Drop a run: its results, candidates, metrics and tags. Its pair scores stay."""
    opened = _open(config, database)
    from reranking.upkeep.retention import forget_run

    run = forget_run(opened, run_id)
    return Answer({"forgotten": run}, line(f"run {run[:8]} is forgotten"))
