"""The command that writes a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.console import Answer, command, database_of, line
from flows.commands.options import AgainstOption, ConfigOption, DatabaseOption, JudgmentList, RunId


@command
def report(
    run_id: RunId,
    out: Annotated[Path, typer.Option("--out", help="HTML file to write")] = Path("report.html"),
    against: AgainstOption = None,
    judgments: JudgmentList = None,
    config: ConfigOption = None,
    database: DatabaseOption = None,
) -> Answer:
    """Write a report on a run, against its first stage or another run: one file, no network."""
    uri, settings = database_of(config, database)
    from reranking.report.answers import report as written

    values = written(uri, settings, run_id, against, judgments, out)
    text = f"{values['headline']}.\n{values['bytes'] / 1024:,.0f} KiB -> {out}"
    return Answer(values, line(text))
