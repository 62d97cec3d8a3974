"""Commands about what was imported: query sets, judgment lists, and taking one row back."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from typing import Annotated, Any

import typer

from flows.commands.console import (
    Answer,
    command,
    echo,
    line,
    open_database,
    read_config,
)
from flows.commands.options import ConfigOption, DatabaseOption, NamedConfig
from reranking.errors import ConfigError


class Action(StrEnum):
    list = "list"
    show = "show"
    drop = "drop"


What = Annotated[Action, typer.Argument(help="list all, show or drop the one that NAME is")]
Name = Annotated[str | None, typer.Argument(metavar="[NAME]")]


def _named(action: Action, name: str | None) -> str:
    if name is None:
        raise ConfigError(f"{action.value} needs a NAME: `list` shows which there are")
    return name


@command
def queries(
    action: What = Action.list,
    name: Name = None,
    config: ConfigOption = None,
    database: DatabaseOption = None,
) -> Answer:
    """List the stored query sets, show one, or drop one that was imported wrongly."""
    opened = open_database(config, database, named=action is Action.drop)
    from reranking.upkeep import stored_sets

    if action is Action.list:
        return Answer(stored_sets.query_sets(opened), partial(_show_rows, "Query sets"))
    named = _named(action, name)
    if action is Action.show:
        rows = stored_sets.queries_of(opened, named)
        return Answer(rows, partial(_show_rows, f"Queries {named}"))
    count = stored_sets.drop_query_set(opened, named)
    text = f"query set {named}: {count:,} queries dropped; finished runs keep those they pinned"
    return Answer({"dropped": named, "queries": count}, line(text))


@command
def judgments(
    action: What = Action.list,
    name: Name = None,
    rater: Annotated[str | None, typer.Option("--rater", help="only what this rater gave")] = None,
    config: ConfigOption = None,
    database: DatabaseOption = None,
) -> Answer:
    """List the stored judgment lists, show one, or drop one, or one rater's part of it."""
    opened = open_database(config, database, named=action is Action.drop)
    from reranking.upkeep import stored_sets

    if action is Action.list:
        return Answer(stored_sets.judgment_lists(opened), partial(_show_rows, "Judgment lists"))
    named = _named(action, name)
    if action is Action.show:
        rows = stored_sets.judgments_of(opened, named, rater)
        return Answer(rows, partial(_show_rows, f"Judgments {named}"))
    count = stored_sets.drop_judgments(opened, named, rater)
    whose = "" if rater is None else f" of {rater}"
    text = f"judgment list {named}: {count:,} judgments{whose} dropped"
    return Answer({"dropped": named, "rater": rater, "judgments": count}, line(text))


def _show_rows(title: str, rows: list[dict[str, Any]]) -> None:
    from flows.commands.tables import add_row, new_table, show
    from reranking.runs.settings import shown

    columns = list(rows[0]) if rows else ["none"]
    numbers = [c for c in columns if rows and isinstance(rows[0][c], int)]
    table = new_table(f"{title}: {len(rows):,}", [c.replace("_", " ") for c in columns], numbers)
    for row in rows:
        add_row(table, *("" if row[c] is None else shown(row[c]) for c in columns))
    show(table)


@command
def erase(
    config: NamedConfig,
    document: Annotated[str | None, typer.Option("--document", metavar="ID")] = None,
    query: Annotated[
        str | None, typer.Option("--query", metavar="ID", help="of the config's query set")
    ] = None,
    unpin: Annotated[
        bool,
        typer.Option("--unpin", help="also from versions that runs pin: they lose those texts"),
    ] = False,
) -> Answer:
    """Erase one document or query everywhere, and say where that cannot be done."""
    settings = read_config(config, None)
    if (document is None) == (query is None):
        raise ConfigError("name what to erase: either --document ID or --query ID")
    from reranking.store import Database
    from reranking.upkeep.erase import erase_document, erase_query

    opened = Database(settings.database, must_exist=True)
    if document is not None:
        done = erase_document(opened, settings, document, unpin=unpin)
    else:
        done = erase_query(opened, settings, str(query), unpin=unpin)
    return Answer(done.as_dict(), _show_erased)


def _show_erased(values: dict[str, Any]) -> None:
    from flows.commands.tables import add_row, new_table, show

    table = new_table(f"{values['what']} {values['id']}", ["erased from", "rows"], ["rows"])
    for name, count in values["rows"].items():
        add_row(table, name, f"{count:,}")
    for file in values["files"]:
        add_row(table, file, "removed")
    show(table)
    for text in values["left"]:
        echo(f"not erased: {text}")
