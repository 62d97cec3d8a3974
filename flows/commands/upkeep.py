"""Commands that look after a database: promote, forget, maintain."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from flows.commands.console import (
    AsJson,
    ConfigFile,
    ConfigOption,
    DatabaseOption,
    Overrides,
    RunId,
    calm_prefect,
    command,
    database_uri,
    read_config,
    say,
)
from reranking.errors import EXIT_DONE


@command
def promote(
    run_id: RunId,
    name: Annotated[str, typer.Option("--as", metavar="NAME", help="e.g. production")],
    config: ConfigOption = None,
    database: DatabaseOption = None,
    as_json: AsJson = False,
) -> int:
    """Give a finished run a name: the baseline of comparisons and gates, never forgotten."""
    from flows.commands import catalog

    promoted = catalog.promote(database_uri(config, database), run_id, name)
    values = {"run_id": promoted, "promoted_as": name}
    say(values) if as_json else typer.echo(f"run {promoted[:8]} is now {name}")
    return EXIT_DONE


@command
def forget(
    run_id: RunId,
    config: ConfigOption = None,
    database: DatabaseOption = None,
    as_json: AsJson = False,
) -> int:
    """Drop a run: its results, candidates, metrics and tags. Its pair scores stay."""
    from flows.commands import catalog

    forgotten = catalog.forget(database_uri(config, database), run_id)
    say({"forgotten": forgotten}) if as_json else typer.echo(f"run {forgotten[:8]} is forgotten")
    return EXIT_DONE


@command
def maintain(
    config: ConfigFile,
    set: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would be done, change nothing")
    ] = False,
    as_json: AsJson = False,
) -> int:
    """Upgrade an older database, forget runs beyond `keep`, tidy scores, compact, prune."""
    settings = read_config(config, set)
    calm_prefect()
    from flows.maintain import maintain as flow

    report = flow(settings, dry_run)
    say({"status": "done", **report}) if as_json else _show(report)
    return EXIT_DONE


def _show(report: dict[str, Any]) -> None:
    from flows.commands.tables import add_row, new_table, show

    title = "Maintenance" + (", nothing changed (dry run)" if report["dry_run"] else "")
    table = new_table(f"{title}, {report['seconds']:.1f} s", ["what", "count"], ["count"])
    for name, text in _LINES.items():
        value = report[name]
        add_row(table, text, f"{len(value) if isinstance(value, list) else value:,}")
    show(table)


_LINES = {
    "upgraded": "tables upgraded to this schema",
    "forgotten": "runs forgotten",
    "candidates": "orphaned candidates",
    "tags": "orphaned tags",
    "scores": "pair scores before",
    "duplicates": "of which duplicates",
    "unused": "of which unused",
    "files": "temporary files of killed writers",
    "bytes": "bytes of these files",
    "folders": "half-created tables",
    "columns": "vector columns of earlier encoders",
    "tables": "tables compacted",
    "versions": "old versions pruned",
}
