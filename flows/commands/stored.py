"""Commands about what was imported: query sets, judgment lists, and taking one row back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    from reranking.store import Database


class Action(StrEnum):
    list = "list"
    show = "show"
    drop = "drop"


What = Annotated[Action, typer.Argument(help="list all, show or drop the one that NAME is")]
Name = Annotated[str | None, typer.Argument(metavar="[NAME]")]


@dataclass(frozen=True)
class _Kind:
    """What is stored under names: how its sets are listed, and one of them is shown and dropped."""

    title: str
    rows: str
    listed: Callable[[Database], list[dict[str, Any]]]
    shown: Callable[[Database, str], list[dict[str, Any]]]
    drop: Callable[[Database, str], int]
    note: str = ""


def _answer(
    kind: _Kind, action: Action, name: str | None, config: Path | None, database: str | None
) -> Answer:
    opened = open_database(config, database, named=action is Action.drop)
    if action is Action.list:
        return Answer(kind.listed(opened), partial(_show_rows, f"{kind.title}s"))
    if name is None:
        raise ConfigError(f"{action.value} needs a NAME: `list` shows which there are")
    if action is Action.show:
        return Answer(kind.shown(opened, name), partial(_show_rows, f"{kind.title} {name}"))
    count = kind.drop(opened, name)
    text = f"{kind.title} {name}: {count:,} {kind.rows} dropped{kind.note}"
    return Answer({"dropped": name, kind.rows: count}, line(text))


@command
def queries(
    action: What = Action.list,
    name: Name = None,
    config: ConfigOption = None,
    database: DatabaseOption = None,
) -> Answer:
    """List the stored query sets, show one, or drop one that was imported wrongly."""
    from reranking.upkeep import stored_sets as of

    note = "; finished runs keep those they pinned"
    kind = _Kind("Query set", "queries", of.query_sets, of.queries_of, of.drop_query_set, note)
    return _answer(kind, action, name, config, database)


@command
def judgments(
    action: What = Action.list,
    name: Name = None,
    rater: Annotated[str | None, typer.Option("--rater", help="only what this rater gave")] = None,
    config: ConfigOption = None,
    database: DatabaseOption = None,
) -> Answer:
    """List the stored judgment lists, show one, or drop one, or one rater's part of it."""
    from reranking.upkeep import stored_sets as of

    shown, drop = (partial(do, rater=rater) for do in (of.judgments_of, of.drop_judgments))
    note = "" if rater is None else f", those of {rater}"
    kind = _Kind("Judgment list", "judgments", of.judgment_lists, shown, drop, note)
    made = _answer(kind, action, name, config, database)
    if action is Action.drop:
        return replace(made, values={**made.values, "rater": rater})
    return made


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
