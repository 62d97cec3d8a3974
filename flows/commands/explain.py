"""Commands that say why and what changed, query by query and document by document."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flows.commands.console import Answer, command, database_of, echo
from flows.commands.options import (
    AgainstOption,
    ConfigOption,
    DatabaseOption,
    JudgmentList,
    QueryTypeOption,
    RunId,
)


@command
def explain(
    run_id: RunId,
    query_id: Annotated[str, typer.Argument(metavar="QUERY_ID")],
    doc_id: Annotated[
        str | None, typer.Argument(metavar="[DOC_ID]", help="default: the top 10")
    ] = None,
    against: AgainstOption = None,
    query_type: QueryTypeOption = None,
    judgments: JudgmentList = None,
    config: ConfigOption = None,
    database: DatabaseOption = None,
) -> Answer:
    """Why is a document where it is: legs, scores, grade; against another run, what moved it."""
    uri, _ = database_of(config, database)
    from reranking.evaluation.explain import explain as explained
    from reranking.evaluation.sides import find_side
    from reranking.runs.listing import find_run
    from reranking.runs.promotion import promoted_run
    from reranking.store import Database

    opened = Database(uri, must_exist=True)
    run = find_run(opened, promoted_run(opened, run_id) or run_id)
    other = None if against is None else find_side(opened, against).run
    made = explained(run, query_id, doc_id, other, query_type=query_type, judgment_list=judgments)
    return Answer(made.to_dict(), lambda _: _show(made))


def _show(made: Any) -> None:
    from flows.commands.tables import explanation_table, show

    echo(made.title)
    for note in made.notes:
        echo(f"  {note}")
    show(explanation_table(made.columns, made.rows))


@command
def diff(
    before: Annotated[str, typer.Argument(metavar="RUN", help="run id or promoted name")],
    after: Annotated[str, typer.Argument(metavar="RUN", help="likewise, the later one")],
    query_type: QueryTypeOption = None,
    k: Annotated[int, typer.Option("--k", min=1, help="ranks that count")] = 10,
    shown: Annotated[int, typer.Option("--shown", min=0, help="queries shown")] = 20,
    config: ConfigOption = None,
    database: DatabaseOption = None,
) -> Answer:
    """What changed from one run to the next: top 10s, documents that came and went, scores."""
    uri, _ = database_of(config, database)
    from reranking.evaluation.run_diff import diff_runs
    from reranking.evaluation.sides import find_side
    from reranking.store import Database

    opened = Database(uri, must_exist=True)
    old, new = (find_side(opened, name).run for name in (before, after))
    made = diff_runs(old, new, query_type=query_type, k=k)
    return Answer(made.to_dict(), lambda _: _show_diff(made, shown))


def _show_diff(made: Any, shown: int) -> None:
    from flows.commands.tables import diff_table, show

    echo(made.sentence)
    for name, (before, after) in made.inputs.items():
        echo(f"  {name}: {before} there, {after} now")
    if made.queries:
        show(diff_table(made, shown))
