"""Commands that judge runs: measures, comparisons, gates, history."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.console import Answer, command, database_of, echo, read_config
from flows.commands.options import (
    ConfigFile,
    ConfigOption,
    DatabaseOption,
    JudgmentList,
    Overrides,
    Primary,
    QueryTypeOption,
    RunOption,
)
from flows.commands.usual import complete_run
from reranking.errors import ConfigError, GateFailed

if TYPE_CHECKING:
    from configs.schema import Config


@command
def evaluate(
    config: ConfigFile,
    run: RunOption = None,
    set: Overrides = None,
) -> Answer:
    """Measure a stored run on today's judgments: per query type, stage and slice; check gates."""
    settings = read_config(config, set)
    if not settings.all_judgments:
        raise ConfigError("the config has no judgments: name a judgments.judgment_list")
    from reranking.evaluation.answers import evaluate as measured
    from reranking.pipeline import Pipeline

    Pipeline(settings).load_judgments()
    values = measured(settings, run)
    return Answer(values, partial(_show_evaluation, settings), fault=_failed(values["gates"]))


def _show_evaluation(settings: Config, values: dict[str, Any]) -> None:
    from flows.commands.tables import measures_table, show
    from flows.commands.verdict_tables import evaluation_lines, gates_table, slices_table

    own = {"run_id": values["run_id"], "primary": values["primary"]}
    for part in (values, *(own | one for one in values["sets"])):
        if part["judgment_list"] is None:
            continue
        for line in evaluation_lines(part):
            echo(line)
        types = list(dict.fromkeys(row["query_type"] for row in part["measures"]))
        asked = settings.comparison.query_type or ("hybrid" if "hybrid" in types else types[0])
        show(
            measures_table(part["measures"], title=part.get("query_set", "")),
            slices_table(part, asked),
        )
    show(gates_table(values["gates"]))


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
        set_sentence,
        sets_table,
    )

    for place, compared in enumerate(values["comparisons"]):
        show(sentence(compared), comparison_table(values["base"], compared))
        for line in comparison_lines(compared):
            echo(line)
        show(moved_table(compared, moved))
        of_sets = {name: made["comparisons"][place] for name, made in values["sets"].items()}
        show(*(set_sentence(name, one) for name, one in of_sets.items()), sets_table(of_sets))


@command
def history(
    measure: Annotated[str, typer.Option("--measure", help="an ir_measures name")] = "nDCG@10",
    query_type: QueryTypeOption = None,
    judgments: JudgmentList = None,
    last: Annotated[int, typer.Option("--last", min=1, help="runs, the newest ones")] = 30,
    config: ConfigOption = None,
    database: DatabaseOption = None,
) -> Answer:
    """A measure over the runs of a config's pipeline, or a database's, on today's judgments."""
    uri, settings = database_of(config, database)
    from reranking.evaluation.answers import history as measured

    rows = measured(uri, settings, measure, query_type, judgments, last)
    return Answer(rows, partial(_show_history, measure))


def _show_history(measure: str, rows: list[dict[str, Any]]) -> None:
    from flows.commands.tables import show
    from flows.commands.verdict_tables import history_table

    show(history_table(rows, measure))
