"""The command that writes a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.console import (
    Answer,
    ConfigOption,
    DatabaseOption,
    RunId,
    command,
    database_of,
    line,
)


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
) -> Answer:
    """Write a report on a run: one HTML file that needs no network."""
    uri, settings = database_of(config, database)
    from reranking.report.answers import report as written

    values = written(uri, settings, run_id, against, judgments, out)
    text = f"{values['headline']}.\n{values['bytes'] / 1024:,.0f} KiB -> {out}"
    return Answer(values, line(text))
