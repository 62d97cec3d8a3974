"""Commands that make something of stored scores: labels, work lists, training data."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.commands.console import Answer, command, database_of, echo, exit_code, line, read_config
from flows.commands.options import (
    AllowRejects,
    ConfigFile,
    ConfigOption,
    DatabaseOption,
    JudgmentList,
    NamedConfig,
    Overrides,
    RunOption,
    Server,
)
from flows.commands.place import do
from reranking.errors import ConfigError, GateFailed

GradesOption = Annotated[
    str | None,
    typer.Option("--grades", metavar="0,1,2", help="the scale; default: the list's, or 0 to 3"),
]


def _grades(text: str | None) -> list[int] | None:
    """The grades of a scale; raises ConfigError for anything but whole numbers of 32 bits."""
    if text is None:
        return None
    try:
        grades = sorted({int(part) for part in text.split(",")})
    except ValueError:
        grades = []
    if len(grades) < 2 or not all(-(2**31) <= grade < 2**31 for grade in grades):
        raise ConfigError(f"--grades {text!r}: expected at least two whole numbers such as 0,1,2,3")
    return grades


def _listed(text: str | None) -> list[str]:
    """The names in a comma-separated list."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


class Order(StrEnum):
    verdict = "verdict"
    calibration = "calibration"


class WorkFormat(StrEnum):
    csv = "csv"
    quepid = "quepid"
    label_studio = "label-studio"


class OutputFormat(StrEnum):
    triplet = "triplet"
    n_tuple = "n-tuple"
    labeled_pair = "labeled-pair"
    labeled_list = "labeled-list"


class Files(StrEnum):
    parquet = "parquet"
    jsonl = "jsonl"
    lance = "lance"


class JudgmentFormat(StrEnum):
    qrels = "qrels"
    beir = "beir"


@command
def label(
    config: ConfigFile,
    run: RunOption = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="show what each rule would do; store nothing")
    ] = False,
    set: Overrides = None,
    allow_rejects: AllowRejects = False,
    server: Server = False,
) -> Answer:
    """Label a run's pairs from their stored scores: calibrate, compare rules, apply one."""
    settings = read_config(config, set)
    if settings.labels is None:
        raise ConfigError("the config has no `labels`: give a label_set and rules")
    if compare:
        from reranking.labelling.answers import compare_rules

        values = compare_rules(settings, run)
    else:
        values = do("label", settings, run, server=server)
    fault = None
    if values["status"] == "not demonstrable":
        fault = GateFailed(f"{values['refused'][values['apply']]}; nothing was labelled")
    code = exit_code(values.get("rejected", 0), allow_rejects)
    return Answer(values, _show_labels, code, fault, settings.database)


def _show_labels(values: dict[str, Any]) -> None:
    from flows.commands.label_tables import (
        calibration_lines,
        calibration_table,
        conflicts_table,
        rules_table,
    )
    from flows.commands.tables import show

    for text in calibration_lines(values["calibration"]):
        echo(text)
    for source, count in values["no_sample"].items():
        echo(
            f"{source}: all {count:,} judgments say relevant; they are no sample of these scores "
            "and enter neither calibration nor precision"
        )
    show(calibration_table(values["calibration"]), rules_table(values), conflicts_table(values))
    if values["status"] != "not demonstrable":
        for name, reason in values["refused"].items():
            echo(f"{name}: {reason}")
    if values.get("label_set"):
        existed = ": it was there already" if values["status"] == "found" else ""
        counts = ", ".join(f"{count:,} {name}" for name, count in values["labels"].items())
        echo(f"Label set {values['label_set']}{existed}: {counts}")


@command
def labels(
    name: Annotated[
        str | None, typer.Argument(metavar="[LABEL_SET]", help="a name, or NAME@DIGEST")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Parquet file for LABEL_SET's labels")
    ] = None,
    with_text: Annotated[
        bool, typer.Option("--with-text", help="with --out: also the texts of query and document")
    ] = False,
    config: ConfigOption = None,
    database: DatabaseOption = None,
) -> Answer:
    """List the label sets with their stale labels, or write one with its stale labels marked."""
    from reranking.labelling import answers as labelling

    uri, _ = database_of(config, database)
    if (name is None) != (out is None):
        raise ConfigError("give LABEL_SET and --out together, or neither to list the label sets")
    if name is not None and out is not None:
        wrote = labelling.export_labels(uri, name, out, texts=with_text)
        text = f"{wrote['rows']} labels, of which {wrote['stale']} stale -> {out}"
        return Answer(wrote, line(text))
    return Answer(labelling.label_sets(uri), _show_label_sets)


def _show_label_sets(rows: list[dict[str, Any]]) -> None:
    from flows.commands.label_tables import label_sets_table
    from flows.commands.tables import show

    show(label_sets_table(rows))


@command
def agreement(
    config: NamedConfig,
    left: Annotated[str, typer.Argument(help="labels:NAME, judgments:LIST or run:ID")],
    right: Annotated[
        str | None, typer.Argument(help="the same; none: the raters of judgments:LIST")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="disagreements listed")] = 20,
    set: Overrides = None,
) -> Answer:
    """Say how far two gradings agree beyond chance: labels, judgments, rerankers by one rule."""
    from reranking.labelling import answers as labelling

    values = labelling.agreement(read_config(config, set), left, right, limit)
    return Answer(values, _show_agreement)


def _show_agreement(values: dict[str, Any]) -> None:
    from flows.commands.label_tables import agreement_line, agreement_tables
    from flows.commands.tables import show

    echo(agreement_line(values))
    show(*agreement_tables(values))


@command
def worklist(
    config: ConfigFile,
    out: Annotated[Path, typer.Option("--out", help="file to write; .jsonl: a task per line")],
    format: Annotated[WorkFormat, typer.Option("--format")] = WorkFormat.csv,
    runs: Annotated[
        str, typer.Option("--runs", metavar="A,B", help="default: the config's newest")
    ] = "",
    order: Annotated[
        Order, typer.Option("--order", help="what a judgment should help most")
    ] = Order.verdict,
    query_type: Annotated[
        str | None, typer.Option("--query-type", help="default: hybrid, where all runs have it")
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="results per query that count")] = 10,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="pairs at most")] = None,
    grades: GradesOption = None,
    set: Overrides = None,
) -> Answer:
    """Write the unjudged results that people should judge next, the most useful first."""
    from reranking.labelling import worklist_answers as tasks

    values = tasks.write_worklist(
        read_config(config, set),
        [run for run in runs.split(",") if run],
        out,
        form=format.value,
        order=order.value,
        query_type=query_type,
        k=k,
        limit=limit,
        grades=_grades(grades),
    )
    text = f"{values['pairs']} pairs of {values['queries']} queries -> {', '.join(values['files'])}"
    return Answer(values, line(text))


@command
def worklist_import(
    config: NamedConfig,
    file: Annotated[Path, typer.Argument(help="a .csv, or Label Studio's .json or .jsonl")],
    rater: Annotated[
        str | None,
        typer.Option("--rater", metavar="A,B", help="who rated a CSV; several: its columns"),
    ] = None,
    judgments: JudgmentList = None,
    grades: GradesOption = None,
    set: Overrides = None,
    allow_rejects: AllowRejects = False,
) -> Answer:
    """Add people's answers to a judgment list, each rater's apart."""
    from reranking.labelling import worklist_answers as tasks

    values = tasks.read_answers(
        read_config(config, set), file, _listed(rater), judgments, _grades(grades)
    )
    return Answer(values, _show_answers, exit_code(values["rejected"], allow_rejects))


def _show_answers(values: dict[str, Any]) -> None:
    who = ", ".join(values["raters"])
    echo(f"{values['answers']} answers by {who} in list {values['judgment_list']}")
    for reason in values["reasons"]:
        echo(f"rejected: {reason}", err=True)


@command
def mine(
    config: ConfigFile,
    run: RunOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Parquet file for the negatives' ids and scores")
    ] = None,
    set: Overrides = None,
) -> Answer:
    """Mine hard negatives from stored scores, and say how many may be relevant after all."""
    from reranking.labelling import training_answers as training

    return Answer(training.mine(read_config(config, set), run, out), _show_mining)


@command
def export_training(
    config: ConfigFile,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="a new folder")],
    run: RunOption = None,
    format: Annotated[
        OutputFormat | None, typer.Option("--format", help="default: training.output_format")
    ] = None,
    files: Annotated[
        Files, typer.Option("--files", help="lance: a table per split in the folder")
    ] = Files.parquet,
    set: Overrides = None,
) -> Answer:
    """Write training data in sentence-transformers' formats, split by query, with provenance."""
    from reranking.labelling import training_answers as training

    values = training.training_files(
        read_config(config, set), run, out, None if format is None else format.value, files.value
    )
    return Answer(values, _show_mining)


def _show_mining(values: dict[str, Any]) -> None:
    from flows.commands.label_tables import mining_table
    from flows.commands.tables import show

    show(mining_table(values))


@command
def export_judgments(
    config: ConfigFile,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER")],
    format: Annotated[JudgmentFormat, typer.Option("--format")] = JudgmentFormat.qrels,
    labels: Annotated[
        str | None,
        typer.Option("--labels", metavar="LABEL_SET", help="its labels where nobody judged"),
    ] = None,
    run: RunOption = None,
    k: Annotated[int, typer.Option("--k", min=1, help="the run's pool of unjudged results")] = 10,
    set: Overrides = None,
) -> Answer:
    """Write judgments as TREC qrels or a BEIR folder; single raters and the unjudged kept."""
    from reranking.labelling import training_answers as training

    values = training.judgment_files(read_config(config, set), run, out, format.value, labels, k)
    text = f"{values['judged']} judged and {values['unjudged']} unjudged pairs -> {out}"
    return Answer(values, line(text))
