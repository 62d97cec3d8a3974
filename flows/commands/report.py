"""The command that writes a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.console import (
    AsJson,
    ConfigOption,
    DatabaseOption,
    RunId,
    calm_prefect,
    command,
    database_uri,
    read_config,
    say,
)
from reranking.errors import EXIT_DONE


@command
def report(
    run_id: RunId,
    out: Annotated[Path, typer.Option("--out", help="HTML file to write")] = Path("report.html"),
    against: Annotated[
        str | None,
        typer.Option(
            "--against", metavar="RUN", help="run id or promoted name; default: its first stage"
        ),
    ] = None,
    judgments: Annotated[
        str | None,
        typer.Option("--judgments", metavar="LIST", help="judgment list; default: the run's"),
    ] = None,
    config: ConfigOption = None,
    database: DatabaseOption = None,
    as_json: AsJson = False,
) -> int:
    """Write a report on a run: one HTML file that needs no network."""
    uri = database_uri(config, database)
    settings = None if config is None else read_config(config, None)
    calm_prefect()
    from reranking.report.answers import report as written

    values = written(uri, settings, run_id, against, judgments, out)
    if as_json:
        say(values)
    else:
        typer.echo(f"{values['headline']}.\n{values['bytes'] / 1024:,.0f} KiB -> {out}")
    return EXIT_DONE
