"""Commands that answer what would be: other settings on stored scores, one query asked now."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.console import Answer, command, echo, read_config
from flows.commands.options import (
    ConfigFile,
    DryRun,
    JudgmentList,
    NamedConfig,
    Overrides,
    Primary,
    QuerySetOption,
    QueryTypeOption,
    RunOption,
    Server,
)
from flows.commands.place import do
from reranking.errors import ConfigError


@command
def sweep(
    config: ConfigFile,
    run: RunOption = None,
    tune_on: Annotated[
        str | None,
        typer.Option(
            "--tune-on", metavar="TAG|SHARE", help="queries that choose; default: all in turn"
        ),
    ] = None,
    judgments: JudgmentList = None,
    primary: Primary = None,
    query_type: QueryTypeOption = None,
    query_set: QuerySetOption = None,
    write: Annotated[
        bool, typer.Option("--write", help="print only the config lines of the best setting")
    ] = False,
    every: Annotated[bool, typer.Option("--all", help="show every setting tried")] = False,
    report: Annotated[
        Path | None,
        typer.Option("--report", metavar="FILE", help="also write a report with the curves"),
    ] = None,
    set: Overrides = None,
) -> Answer:
    """What other depths, legs, fusions, blends and cuts would give, from stored scores alone."""
    settings = read_config(config, set)
    from reranking.evaluation.sweep.run_sweep import sweep_run
    from reranking.pipeline import Pipeline
    from reranking.runs.listing import of_query_set

    stored = of_query_set(Pipeline(settings).stored_run(run), query_set)
    if query_set in settings.queries.sets:
        settings = settings.of_set(query_set)
    given = {"primary": primary, "query_type": query_type}
    rules = settings.comparison.model_copy(update={k: v for k, v in given.items() if v is not None})
    own = None if settings.judgments is None else settings.judgments.judgment_list
    made = sweep_run(
        stored,
        rules,
        judgment_list=judgments or own,
        tune_on=tune_on,
        ignore_identical_ids=settings.ignore_identical_ids,
    )
    values = made.to_dict()
    if report is not None:
        from reranking.report.answers import report_with_sweep

        values["report"] = report_with_sweep(settings, stored, made, report)
    if write:
        return Answer(values, lambda values: echo(values["write"].rstrip("\n")))
    return Answer(values, partial(_show_sweep, every))


def _show_sweep(every: bool, values: dict[str, Any]) -> None:
    from flows.commands.sweep_tables import family_table, sweep_lines
    from flows.commands.tables import show

    for text in sweep_lines(values):
        echo(text)
    for family in values["families"]:
        show(family_table(values, family, every))
    echo(values["sentence"])
    if values["best"]:
        echo("Config lines (`--write` prints them alone):\n" + values["write"].rstrip("\n"))
    if "report" in values:
        echo(f"Report: {values['report']}")


@command
def search(
    config: NamedConfig,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="what to ask")],
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="COLUMN=VALUE", help="only these; may be given often"),
    ] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN_ID", help="as this run did; default: as now")
    ] = None,
    query_type: QueryTypeOption = None,
    top: Annotated[int, typer.Option("--top", min=1, help="documents shown")] = 10,
    set: Overrides = None,
) -> Answer:
    """Ask one query now: both legs, their scores, the final ranking, the start of each text."""
    settings = read_config(config, set)
    from reranking.ad_hoc import ask
    from reranking.pipeline import Pipeline

    pipeline, stored = Pipeline(settings), None
    if run is not None:
        stored = pipeline.stored_run(run)
        if stored.config is None:
            raise ConfigError(
                f"run {stored.run_id[:8]} was started by another rescore, whose config cannot be "
                "read: ask without --run"
            )
        own = stored.config.model_copy(update={"database": settings.database})
        pipeline = Pipeline(own)
    made = ask(
        pipeline,
        text,
        run=stored,
        where=_conditions(where or []),
        query_type=_query_type(query_type),
        top=top,
    )
    return Answer(made.to_dict(), lambda _: _show_hits(made))


def _conditions(given: list[str]) -> dict[str, Any]:
    """The conditions of --where, their values read as YAML reads them."""
    import yaml

    conditions = {}
    for item in given:
        column, equals, value = item.partition("=")
        if not (column and equals):
            raise ConfigError(f"--where {item!r}: expected COLUMN=VALUE, such as lang=en")
        try:
            conditions[column] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise ConfigError(f"--where {item!r}: the value is no YAML") from None
    return conditions


def _query_type(given: str | None) -> Any:
    if given not in (None, "vector", "fts", "hybrid"):
        raise ConfigError(f"--query-type {given!r}: expected vector, fts or hybrid")
    return given


def _show_hits(made: Any) -> None:
    from flows.commands.tables import explanation_table, show
    from reranking.ad_hoc import COLUMNS

    echo(made.title)
    show(explanation_table(COLUMNS, made.rows))


@command
def bakeoff(
    config: ConfigFile,
    reranker: Annotated[
        list[str] | None,
        typer.Option("--reranker", metavar="MODEL", help="takes part; `none`: the first stage"),
    ] = None,
    encoder: Annotated[
        list[str] | None, typer.Option("--encoder", metavar="MODEL", help="likewise")
    ] = None,
    dry_run: DryRun = False,
    report: Annotated[
        Path | None, typer.Option("--report", metavar="FILE", help="also write it as a page")
    ] = None,
    set: Overrides = None,
    server: Server = False,
) -> Answer:
    """Several models on one corpus and query set: quality, speed, size and cost in one table."""
    settings = read_config(config, set)
    rerankers, encoders = _models(reranker), _models(encoder)
    if dry_run:
        from reranking.bakeoff import contenders, forecast_of

        costs = [dict(forecast_of(c)) for c in contenders(settings, rerankers, encoders)]
        return Answer({"status": "dry run", "rows": costs}, _show_costs)
    values = do("bakeoff", settings, rerankers, encoders, server=server)
    if report is not None:
        from reranking.report.bakeoff import write_bakeoff

        write_bakeoff(values, report)
        values["report"] = str(report)
    return Answer(values, _show_bakeoff)


def _models(given: list[str] | None) -> list[str]:
    """The models, local folders with their whole path."""
    return [str(Path(name).absolute()) if Path(name).is_dir() else name for name in given or []]


def _show_costs(values: dict[str, Any]) -> None:
    from flows.commands.sweep_tables import costs_table
    from flows.commands.tables import show

    show(costs_table(values["rows"]))


def _show_bakeoff(values: dict[str, Any]) -> None:
    from flows.commands.sweep_tables import bakeoff_sets_table, bakeoff_table
    from flows.commands.tables import show

    show(bakeoff_table(values), bakeoff_sets_table(values))
    for row in values["rows"]:
        if row["reason"] or row["why"]:
            echo(f"{row['name']}: {row['reason'] or row['why']}")
    if "report" in values:
        echo(f"Report: {values['report']}")
