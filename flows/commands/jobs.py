"""Commands that do a job: the main job, its first part, another model, upkeep."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.console import Answer, command, echo, exit_code, line, printable, read_config
from flows.commands.options import AllowRejects, ConfigFile, DryRun, NamedConfig, Overrides, Server
from flows.commands.place import do
from reranking.errors import ConfigError, GateFailed, ToBeContinued

if TYPE_CHECKING:
    from configs.schema import Config


Summary = Annotated[
    Path | None,
    typer.Option("--summary", metavar="FILE", help="append what the run did as Markdown"),
]


@command
def ingest(
    config: ConfigFile,
    set: Overrides = None,
    allow_rejects: AllowRejects = False,
    server: Server = False,
) -> Answer:
    """Bring the documents table in line with its source."""
    settings = read_config(config, set)
    if settings.documents.source is None:
        raise ConfigError("the config has no documents.source: there is nothing to ingest")
    report = do("ingest", settings, server=server)
    code = exit_code(report["rejected"], allow_rejects)
    values = {"status": "done", **report}
    return Answer(values, _show_ingest, code, database=settings.database)


def _show_ingest(values: dict[str, Any]) -> None:
    from flows.commands.tables import ingest_table, show

    show(ingest_table(values))


@command
def run(
    config: ConfigFile,
    set: Overrides = None,
    force: Annotated[bool, typer.Option("--force", help="score stored pairs again")] = False,
    dry_run: DryRun = False,
    publish: Annotated[
        bool,
        typer.Option("--publish", help="publish for consumers whatever --set says"),
    ] = False,
    summary: Summary = None,
    allow_rejects: AllowRejects = False,
    server: Server = False,
) -> Answer:
    """Ingest what changed, search, rerank, publish, and evaluate if judgments are given."""
    settings = read_config(config, set)
    serve = publish or not _is_what_if(settings, config, set)
    if dry_run:
        from reranking.forecast import forecast
        from reranking.pipeline import Pipeline

        return Answer({"status": "dry run", **forecast(Pipeline(settings))}, _show_estimate)
    try:
        values = do("rescore", settings, force, serve, server=server)
    except GateFailed as failed:
        _summarise(failed.values, summary)
        return Answer(failed.values, _show_run, fault=failed)
    except ToBeContinued as stopped:
        values = stopped.values
    if values["status"] == "to be continued":
        return Answer(values, lambda _: None, fault=ToBeContinued(values["reason"]))
    _summarise(values, summary)
    code = exit_code(values["rejected"], allow_rejects)
    return Answer(values, _show_run, code, database=settings.database)


def _summarise(values: dict[str, Any], file: Path | None) -> None:
    """Write what the run did as Markdown, behind what the file holds already."""
    if file is None:
        return
    from reranking.report.summary import markdown_of

    try:
        with file.open("a", encoding="utf-8") as out:
            out.write(printable(markdown_of(values)) + "\n")
    except OSError as error:
        raise ConfigError(f"--summary {file}: {error.strerror or error}") from error


def _is_what_if(settings: Config, file: Path, overrides: list[str] | None) -> bool:
    """Whether overrides make another run than the file's, which consumers did not ask for.

    Knobs of the machine make no other run. Said on stderr if there is a table for consumers.
    """
    if not overrides or settings.results.table is None:
        return False
    from reranking.runs.settings import same_inputs

    if same_inputs(settings, read_config(file, None)):
        return False
    echo(
        f"table {settings.results.table!r} is left as it is: --set makes another run than the "
        "config's own. Give --publish to publish it",
        err=True,
    )
    return True


def _show_estimate(values: dict[str, Any]) -> None:
    from flows.commands.tables import estimate_table, show

    show(estimate_table(values))


def _show_run(values: dict[str, Any]) -> None:
    from flows.commands.tables import measures_table, run_table, set_tables, show
    from flows.commands.verdict_tables import gates_table, unknown_lines

    show(run_table(values), measures_table(values["measures"], values["lengths"]))
    show(*set_tables(values["sets"]), gates_table(values["gates"]))
    for one in (values, *values["sets"]):
        for text in unknown_lines(one["unknown"]):
            echo(text)
    if values["report"]:
        echo(f"Report: {values['report']}")


@command
def quickstart(
    folder: Annotated[
        Path, typer.Argument(help="where the database and the config are put")
    ] = Path("quickstart"),
) -> Answer:
    """Ingest the Python documentation, answer 209 questions, and show what reranking changes."""
    from flows.commands.preset import prepare

    config = prepare(folder)
    settings = read_config(config, None)
    values = do("rescore", settings, server=True)

    def show(values: dict[str, Any]) -> None:
        _show_run(values)
        echo(f"\nNext: rescore show {values['run_id'][:8]} --config {config}")

    code = exit_code(values["rejected"], False)
    return Answer(values, show, code, database=settings.database)


@command
def reevaluate(config: ConfigFile, set: Overrides = None, server: Server = False) -> Answer:
    """Try other models (--set rerank.model_name=...) on the stored candidates: compare and gate."""
    try:
        values = do("reevaluate", read_config(config, set), server=server)
    except GateFailed as failed:
        return Answer(failed.values, _show_reevaluation, fault=failed)
    return Answer(values, _show_reevaluation)


def _show_reevaluation(values: dict[str, Any]) -> None:
    from flows.commands.evaluation import show_comparison
    from flows.commands.tables import measures_table, run_table, set_tables, show
    from flows.commands.verdict_tables import gates_table

    measures = measures_table(values["measures"], values["lengths"])
    show(run_table(values), measures, *set_tables(values["sets"]))
    if values["comparison"] is None:
        echo("nothing to compare with: `rescore promote RUN_ID --as production` names a run")
    else:
        show_comparison(values["comparison"], 5)
    show(gates_table(values["gates"]))


@command
def watch(config: ConfigFile, set: Overrides = None, server: Server = False) -> Answer:
    """Reevaluate if a configured model is not the promoted run's any more; seconds if it is."""
    settings = read_config(config, set)
    try:
        values = do("watch", settings, server=server)
    except GateFailed as failed:
        return Answer(failed.values, _show_reevaluation, fault=failed)

    def show(values: dict[str, Any]) -> None:
        for change in values["changed"]:
            before, now = ((change[k] or "none")[:8] for k in ("before", "now"))
            echo(f"{change['kind']} {change['name']} changed: {before} -> {now}")
        if values["changed"]:
            _show_reevaluation(values["reevaluation"])
        else:
            echo(f"no model changed since {settings.comparison.against}")

    return Answer(values, show)


@command
def import_run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a ranking: run file or table")],
    config: ConfigFile,
    name: Annotated[str, typer.Option("--name", help="the name it is promoted under, e.g. bm25")],
    format: Annotated[
        str, typer.Option("--format", help="trec, jsonl, csv, parquet or lance")
    ] = "trec",
    query_type: Annotated[
        str, typer.Option("--query-type", help="the query type it is compared as")
    ] = "hybrid",
    set: Overrides = None,
    allow_rejects: AllowRejects = False,
    server: Server = False,
) -> Answer:
    """Store somebody else's ranking as a run, so that it can be a side of comparisons."""
    given = [
        f"candidates={json.dumps(_candidates(file, format, query_type))}",
        *(
            "rerank=null",
            "results={}",
            "gates=[]",
            "data_gates={}",
            "documents.source=null",
            "queries.source=null",
            "queries.sets={}",
        ),
        "search.limit=10000",
    ]
    settings = read_config(config, [*given, *(set or [])])
    values = do("rescore", settings, server=server)
    from reranking.runs.promotion import promote
    from reranking.store import Database

    promote(Database(settings.database, must_exist=True), values["run_id"], name)
    values["promoted_as"] = name
    text = f"{name} is run {values['run_id'][:8]}: {values['queries']} queries"
    code = exit_code(values["rejected"], allow_rejects)
    return Answer(values, line(text), code, database=settings.database)


def _candidates(file: Path, format: str, query_type: str) -> dict[str, Any]:
    return {"source": {"format": format, "path": str(file.absolute())}, "query_type": query_type}


@command
def maintain(
    config: NamedConfig,
    set: Overrides = None,
    dry_run: DryRun = False,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", metavar="AGE", help="prune versions: 12h, 7d, 2w; default 7d"),
    ] = None,
    server: Server = False,
) -> Answer:
    """Upgrade an older database, forget runs beyond `keep`, tidy scores, compact, prune."""
    seconds = None if older_than is None else _age(older_than)
    report = do("maintain", read_config(config, set), dry_run, seconds, server=server)
    return Answer({"status": "done", **report}, _show_maintenance)


def _age(text: str) -> float:
    """The seconds of an age such as 90s, 12h, 7d; raises ConfigError for anything else."""
    match = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if match is None:
        raise ConfigError(f"--older-than {text!r}: expected a number and s, m, h, d or w, as in 7d")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}[match[2]]


def _show_maintenance(report: dict[str, Any]) -> None:
    from flows.commands.tables import add_row, new_table, show

    title = "Maintenance" + (", nothing changed (dry run)" if report["dry_run"] else "")
    table = new_table(f"{title}, {report['seconds']:.1f} s", ["what", "count"], ["count"])
    for name, text in _LINES.items():
        value = report[name]
        if value is not None:
            add_row(table, text, f"{len(value) if isinstance(value, list) else value:,}")
    show(table)
    for text in report["held"]:
        echo(f"held back: {text}")


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
    "columns": "vector columns of earlier trials, moved to tables",
    "vectors": "tables of vectors that no run is left of",
    "tables": "tables compacted",
    "versions": "old versions pruned",
    "bytes_before": "bytes of the database before",
    "bytes_after": "bytes of the database after",
}
