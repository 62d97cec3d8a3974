"""Commands that look after a database: promote, forget, maintain."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.console import (
    AsJson,
    ConfigOption,
    DatabaseOption,
    RunId,
    command,
    database_uri,
    say,
)
from tasks.errors import EXIT_DONE


@command
def promote(
    run_id: RunId,
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="e.g. production")],
    config: ConfigOption = None,
    database: DatabaseOption = None,
    as_json: AsJson = False,
) -> int:
    """Give a finished run a name: the baseline of comparisons and gates, never forgotten."""
    from tasks import catalog

    promoted = catalog.promote(database_uri(config, database), run_id, name)
    values = {"run_id": promoted, "promoted_as": name}
    say(values) if as_json else typer.echo(f"run {promoted[:8]} is now {name}")
    return EXIT_DONE
