"""Commands that say why: one query of a run, document by document."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flows.commands.console import (
    Answer,
    ConfigOption,
    DatabaseOption,
    RunId,
    command,
    database_of,
    echo,
)
from flows.commands.evaluation import JudgmentList, QueryTypeOption


@command
def explain(
    run_id: RunId,
    query_id: Annotated[str, typer.Argument(metavar="QUERY_ID")],
    doc_id: Annotated[
        str | None, typer.Argument(metavar="[DOC_ID]", help="default: the top 10")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="OTHER", help="a run id or promoted name: what moved"),
    ] = None,
    query_type: QueryTypeOption = None,
    judgments: JudgmentList = None,
    config: ConfigOption = None,
    database: DatabaseOption = None,
) -> Answer:
    """Why is a document where it is: legs, scores, grade; against another run, what moved it."""
    uri, _ = database_of(config, database)
    from reranking.evaluation.explain import explain as explained
    from reranking.evaluation.sides import find_side
    from reranking.runs.promotion import promoted_run
    from reranking.runs.run import find_run
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
