"""Commands that judge runs: measures, comparisons, gates, history, another model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.console import (
    AllowRejects,
    AsJson,
    ConfigFile,
    ConfigOption,
    DatabaseOption,
    Overrides,
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

JudgmentList = Annotated[
    str | None,
    typer.Option("--judgments", metavar="LIST", help="judgment list; default: the runs'"),
]
Primary = Annotated[str | None, typer.Option("--primary", help="the measure that decides")]
QueryTypeOption = Annotated[
    str | None, typer.Option("--query-type", help="vector, fts or hybrid; default: hybrid")
]


@command
def evaluate(
    config: ConfigFile,
    run: Annotated[
        str | None, typer.Option("--run", metavar="RUN_ID", help="default: the config's newest")
    ] = None,
    set: Overrides = None,
    as_json: AsJson = False,
) -> int:
    """Measure a stored run on today's judgments: per query type, stage and slice; check gates."""
    settings = read_config(config, set)
    if settings.judgments is None:
        raise ConfigError("the config has no judgments: name a judgments.judgment_list")
    calm_prefect()
    from reranking.evaluation.answers import evaluate as measured
    from reranking.pipeline import Pipeline

    Pipeline(settings).load_judgments()
    values = measured(settings, run)
    if as_json:
        say(values)
    else:
        _show_evaluation(values, settings)
    return _gate_code(values["gates"])


def _show_evaluation(values: dict[str, Any], settings: Config) -> None:
    from flows.commands.tables import measures_table, show
    from flows.commands.verdict_tables import evaluation_lines, gates_table, slices_table

    for line in evaluation_lines(values):
        typer.echo(line)
    types = list(dict.fromkeys(row["query_type"] for row in values["measures"]))
    asked = settings.comparison.query_type or ("hybrid" if "hybrid" in types else types[0])
    show(
        measures_table(values["measures"]),
        slices_table(values, asked),
        gates_table(values["gates"]),
    )


def _gate_code(gates: dict[str, Any] | None) -> int:
    """Raises GateFailed with the reasons where gates failed."""
    if gates is not None and not gates["passed"]:
        raise GateFailed("a gate failed:\n  " + "\n  ".join(gates["reasons"]))
    return EXIT_DONE


@command
def compare(
    base: Annotated[str, typer.Argument(metavar="BASE", help="run id or promoted name, [:first]")],
    candidates: Annotated[
        list[str], typer.Argument(metavar="CANDIDATE...", help="likewise; several compete")
    ],
    judgments: JudgmentList = None,
    primary: Primary = None,
    query_type: QueryTypeOption = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="refuse runs that did not see the same inputs")
    ] = False,
    moved: Annotated[int, typer.Option("--moved", min=0, help="moved queries shown")] = 10,
    config: ConfigOption = None,
    database: DatabaseOption = None,
    as_json: AsJson = False,
) -> int:
    """Is the candidate better than the base? A verdict, what it rests on, and what moved."""
    uri = database_uri(config, database)
    from reranking.evaluation.answers import compare as compared

    values = compared(
        uri,
        None if config is None else read_config(config, None),
        base,
        candidates,
        judgment_list=judgments,
        primary=primary,
        query_type=query_type,
        strict=strict,
    )
    if as_json:
        say(values)
    else:
        _show_comparison(values, moved)
    return EXIT_DONE


def _show_comparison(values: dict[str, Any], moved: int) -> None:
    from flows.commands.tables import show
    from flows.commands.verdict_tables import (
        comparison_lines,
        comparison_table,
        moved_table,
        sentence,
    )

    for told in values["comparisons"]:
        show(sentence(told), comparison_table(values["base"], told))
        for line in comparison_lines(told):
            typer.echo(line)
        show(moved_table(told, moved))


@command
def history(
    measure: Annotated[str, typer.Option("--measure", help="an ir_measures name")] = "nDCG@10",
    query_type: QueryTypeOption = None,
    judgments: JudgmentList = None,
    last: Annotated[int, typer.Option("--last", min=1, help="runs, the newest ones")] = 30,
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="the runs of this config")
    ] = None,
    database: Annotated[
        str | None, typer.Option("--database", metavar="URI", help="all runs of a database")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """A measure over the runs of a pipeline, on today's judgments."""
    uri = database_uri(config, database)
    from flows.commands.tables import show
    from flows.commands.verdict_tables import history_table
    from reranking.evaluation.answers import history as measured

    settings = None if config is None else read_config(config, None)
    rows = measured(uri, settings, measure, query_type, judgments, last)
    say(rows) if as_json else show(history_table(rows, measure))
    return EXIT_DONE


@command
def reevaluate(
    config: ConfigFile,
    set: Overrides = None,
    as_json: AsJson = False,
) -> int:
    """Try other models (--set rerank.model_name=...) on the stored candidates: compare and gate."""
    settings = read_config(config, set)
    calm_prefect()
    from flows.reevaluate import reevaluate as flow

    try:
        values = flow(settings)
    except GateFailed as failed:
        _show_reevaluation(failed.values, as_json)
        raise
    _show_reevaluation(values, as_json)
    return EXIT_DONE


def _show_reevaluation(values: dict[str, Any], as_json: bool) -> None:
    from flows.commands.tables import measures_table, run_table, show
    from flows.commands.verdict_tables import gates_table

    if as_json:
        say(values)
        return
    show(run_table(values), measures_table(values["measures"]))
    if values["comparison"] is None:
        typer.echo("nothing to compare with: `rescore promote RUN_ID --as production` names a run")
    else:
        _show_comparison(values["comparison"], 5)
    show(gates_table(values["gates"]))


@command
def watch(
    config: ConfigFile,
    set: Overrides = None,
    as_json: AsJson = False,
) -> int:
    """Reevaluate if a configured model is not the promoted run's any more; seconds if it is."""
    settings = read_config(config, set)
    calm_prefect()
    from flows.watch import watch as flow

    try:
        values = flow(settings)
    except GateFailed as failed:
        _show_reevaluation(failed.values, as_json)
        raise
    if as_json:
        say(values)
        return EXIT_DONE
    for change in values["changed"]:
        before, now = ((change[k] or "none")[:8] for k in ("before", "now"))
        typer.echo(f"{change['kind']} {change['name']} changed: {before} -> {now}")
    if values["changed"]:
        _show_reevaluation(values["reevaluation"], as_json)
    else:
        typer.echo(f"no model changed since {settings.comparison.against}")
    return EXIT_DONE


@command
def import_run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a ranking: run file or table")],
    config: ConfigFile,
    name: Annotated[str, typer.Option("--name", help="the name it is promoted under, e.g. bm25")],
    format: Annotated[
        str, typer.Option("--format", help="trec, jsonl, csv, parquet or lance")
    ] = "trec",
    query_type: Annotated[
        str, typer.Option("--query-type", help="the query type it is compared as")
    ] = "hybrid",
    set: Overrides = None,
    allow_rejects: AllowRejects = False,
    as_json: AsJson = False,
) -> int:
    """Store somebody else's ranking as a run, so that it can be a side of comparisons."""
    given = [
        f"candidates={json.dumps(_candidates(file, format, query_type))}",
        *("rerank=null", "results={}", "gates=[]", "documents.source=null", "queries.source=null"),
        "search.limit=10000",
    ]
    settings = read_config(config, [*given, *(set or [])])
    calm_prefect()
    from flows.commands import catalog
    from flows.rescore import rescore

    values = rescore(settings)
    catalog.promote(settings.database, values["run_id"], name)
    values["promoted_as"] = name
    if as_json:
        say(values)
    else:
        typer.echo(f"{name} is run {values['run_id'][:8]}: {values['queries']} queries")
    return exit_code(values["rejected"], allow_rejects)


def _candidates(file: Path, format: str, query_type: str) -> dict[str, Any]:
    return {"source": {"format": format, "path": str(file.absolute())}, "query_type": query_type}
