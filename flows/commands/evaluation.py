"""Commands that judge runs: measures, comparisons, gates, history."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.console import (
    Answer,
    ConfigFile,
    ConfigOption,
    DatabaseOption,
    Overrides,
    command,
    database_of,
    echo,
    read_config,
)
from flows.commands.usual import complete_run
from reranking.errors import ConfigError, GateFailed

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
        str | None,
        typer.Option(
            "--run",
            metavar="RUN_ID",
            help="default: the config's newest",
            autocompletion=complete_run,
        ),
    ] = None,
    set: Overrides = None,
) -> Answer:
    """Measure a stored run on today's judgments: per query type, stage and slice; check gates."""
    settings = read_config(config, set)
    if settings.judgments is None:
        raise ConfigError("the config has no judgments: name a judgments.judgment_list")
    from reranking.evaluation.answers import evaluate as measured
    from reranking.pipeline import Pipeline

    Pipeline(settings).load_judgments()
    values = measured(settings, run)
    return Answer(values, partial(_show_evaluation, settings), fault=_failed(values["gates"]))


def _show_evaluation(settings: Config, values: dict[str, Any]) -> None:
    from flows.commands.tables import measures_table, show
    from flows.commands.verdict_tables import evaluation_lines, gates_table, slices_table

    for line in evaluation_lines(values):
        echo(line)
    types = list(dict.fromkeys(row["query_type"] for row in values["measures"]))
    asked = settings.comparison.query_type or ("hybrid" if "hybrid" in types else types[0])
    show(
        measures_table(values["measures"]),
        slices_table(values, asked),
        gates_table(values["gates"]),
    )


def _failed(gates: dict[str, Any] | None) -> GateFailed | None:
    """Return the fault that names the reasons if gates failed."""
    if gates is None or gates["passed"]:
        return None
    return GateFailed("a gate failed:\n  " + "\n  ".join(gates["reasons"]))


@command
def compare(
    base: Annotated[
        str,
        typer.Argument(
            metavar="BASE", help="run id or promoted name, [:first]", autocompletion=complete_run
        ),
    ],
    candidates: Annotated[
        list[str],
        typer.Argument(
            metavar="CANDIDATE...", help="likewise; several compete", autocompletion=complete_run
        ),
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
) -> Answer:
    """Is the candidate better than the base? A verdict, what it rests on, and what moved."""
    uri, settings = database_of(config, database)
    from reranking.evaluation.answers import compare as compared

    values = compared(
        uri,
        settings,
        base,
        candidates,
        judgment_list=judgments,
        primary=primary,
        query_type=query_type,
        strict=strict,
    )
    return Answer(values, lambda values: show_comparison(values, moved))


def show_comparison(values: dict[str, Any], moved: int) -> None:
    """Print each comparison: verdict, measures, what differs, the `moved` queries at most."""
    from flows.commands.tables import show
    from flows.commands.verdict_tables import (
        comparison_lines,
        comparison_table,
        moved_table,
        sentence,
    )

    for compared in values["comparisons"]:
        show(sentence(compared), comparison_table(values["base"], compared))
        for line in comparison_lines(compared):
            echo(line)
        show(moved_table(compared, moved))


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
) -> Answer:
    """A measure over the runs of a pipeline, on today's judgments."""
    uri, settings = database_of(config, database)
    from reranking.evaluation.answers import history as measured

    rows = measured(uri, settings, measure, query_type, judgments, last)
    return Answer(rows, partial(_show_history, measure))


def _show_history(measure: str, rows: list[dict[str, Any]]) -> None:
    from flows.commands.tables import show
    from flows.commands.verdict_tables import history_table

    show(history_table(rows, measure))
