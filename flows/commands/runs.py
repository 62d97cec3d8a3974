"""Commands about the runs of a database: list, show, export, name, forget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.console import (
    Answer,
    command,
    database_of,
    echo,
    line,
    open_database,
    read_config,
)
from flows.commands.options import ConfigFile, ConfigOption, DatabaseOption, QuerySetOption, RunId
from reranking.errors import ConfigError

if TYPE_CHECKING:
    from configs.schema import Config


@command
def runs(config: ConfigOption = None, database: DatabaseOption = None) -> Answer:
    """List the runs of a database, newest first."""
    opened = open_database(config, database)
    from reranking.runs.listing import list_rows
    from reranking.runs.promotion import promoted_names
    from reranking.runs.settings import differing

    names = promoted_names(opened)
    rows = list_rows(opened)
    answer = [
        row | {"promoted_as": names.get(row["run_id"], []), "differs": differs}
        for row, differs in zip(rows, differing(rows), strict=True)
    ]
    return Answer(answer, _show_runs)


def _show_runs(rows: list[dict[str, Any]]) -> None:
    from flows.commands.tables import runs_table, show, unfinished_lines

    show(runs_table(rows))
    for text in unfinished_lines(rows):
        echo(text)


@command
def show(run_id: RunId, config: ConfigOption = None, database: DatabaseOption = None) -> Answer:
    """Show one run: inputs, fingerprints, counts, times, measures."""
    opened = open_database(config, database)
    from reranking.evaluation.run_measures import stored_means
    from reranking.runs.listing import find_run
    from reranking.runs.promotion import promoted_names
    from reranking.runs.recall import recall_of

    run = find_run(opened, run_id)
    row = run.stored
    recall = recall_of(opened, row["search_id"])
    more = {
        "promoted_as": promoted_names(opened).get(row["run_id"], []),
        "recall": None if recall is None else recall.to_dict(),
        "measures": stored_means(run),
    }
    return Answer(row | more, _show_run)


def _show_run(row: dict[str, Any]) -> None:
    from flows.commands.tables import details_tables
    from flows.commands.tables import show as draw

    draw(*details_tables(row))


@command
def rejects(
    config: ConfigOption = None,
    database: DatabaseOption = None,
    source: Annotated[
        str | None, typer.Option("--source", help="first characters of a source's fingerprint")
    ] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", help="a part of the reason, in any case")
    ] = None,
) -> Answer:
    """List the rows that were rejected, with the reason of each, newest first."""
    opened = open_database(config, database)
    from reranking.corpus.rejects import stored_rejects

    return Answer(stored_rejects(opened, source or "", reason or ""), _show_rejects)


def _show_rejects(rows: list[dict[str, Any]]) -> None:
    from flows.commands.tables import rejects_table
    from flows.commands.tables import show as draw

    draw(rejects_table(rows))


@command
def export(
    run_id: RunId,
    format: Annotated[str, typer.Option("--format", help="trec, parquet, csv or jsonl")],
    out: Annotated[Path, typer.Option("--out", help="file to write")],
    query_type: Annotated[
        str | None, typer.Option("--query-type", help="vector, fts or hybrid; default: all")
    ] = None,
    query_set: QuerySetOption = None,
    config: ConfigOption = None,
    database: DatabaseOption = None,
) -> Answer:
    """Write a run's results to a file."""
    opened = open_database(config, database)
    from reranking.runs.export import export_results
    from reranking.runs.listing import find_run, of_query_set

    run = of_query_set(find_run(opened, run_id), query_set)
    rows = export_results(run, format, out, query_type)
    return Answer({"rows": rows, "file": str(out)}, line(f"{rows} rows -> {out}"))


@command
def promote(
    run_id: RunId,
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="e.g. production")],
    publish: Annotated[
        bool, typer.Option("--publish", help="also bring the consumers' table to it")
    ] = False,
    config: ConfigOption = None,
    database: DatabaseOption = None,
) -> Answer:
    """Give a finished run a name: the baseline of comparisons and gates, never forgotten.

    Its vectors move into the documents table if they are of another encoder than those there.
    """
    uri, settings = database_of(config, database)
    if publish:
        _need_table(settings)
    from reranking.runs.consumers import check_owner, publish_for_consumers
    from reranking.runs.listing import find_run
    from reranking.runs.promotion import promote as give_name
    from reranking.store import Database

    opened = Database(uri, must_exist=True)
    if publish and settings is not None:  # what would be refused afterwards is refused before
        run = find_run(opened, run_id)
        check_owner(opened, settings.results, run.queries.name, run.corpus)
    promoted = give_name(opened, run_id, name)
    values: dict[str, Any] = {
        "run_id": promoted.run.run_id,
        "promoted_as": name,
        "vectors": None if promoted.moved is None else vars(promoted.moved),
        "consumers": None,
    }
    if publish and settings is not None:
        values["consumers"] = publish_for_consumers(promoted.run, settings.results).as_dict()
    return Answer(values, _show_promoted)


def _show_promoted(values: dict[str, Any]) -> None:
    echo(f"run {values['run_id'][:8]} is now {values['promoted_as']}")
    if moved := values["vectors"]:
        echo(
            f"table {moved['table']} has the vectors of encoder {moved['now'][:8]} from now on; "
            f"those of {moved['before'][:8]} are kept in {moved['kept']}"
        )
    if values["consumers"]:
        _show_published(values["consumers"])


def _show_published(values: dict[str, Any]) -> None:
    from reranking.numbers import published_line

    echo(f"for consumers: {published_line(values)}")


def _need_table(settings: Config | None) -> Config:
    """The config; raises ConfigError if it names no table for consumers."""
    if settings is None or settings.results.table is None:
        raise ConfigError(
            "there is no table for consumers: give --config FILE of a config with results.publish"
        )
    return settings


@command
def publish(run_id: RunId, config: ConfigFile) -> Answer:
    """Bring the consumers' table of a config to a finished run's results: also the way back."""
    settings = _need_table(read_config(config, None))
    from reranking.runs.consumers import publish_for_consumers
    from reranking.runs.listing import find_run
    from reranking.runs.plan import note_gates
    from reranking.store import Database

    run = find_run(Database(settings.database, must_exist=True), run_id)
    if run.status != "done":
        raise ConfigError(f"run {run.run_id[:8]} is {run.status}: only finished runs are published")
    published = publish_for_consumers(run, settings.results)
    note_gates(run, 0)  # who publishes a refused run accepts it: the next one is compared with it
    return Answer(published.as_dict(), _show_published)


@command
def forget(run_id: RunId, config: ConfigOption = None, database: DatabaseOption = None) -> Answer:
    """Drop a run: its results, candidates, metrics and tags. Its pair scores stay."""
    opened = open_database(config, database, named=True)
    from reranking.upkeep.retention import forget_run

    run = forget_run(opened, run_id)
    return Answer({"forgotten": run}, line(f"run {run[:8]} is forgotten"))
