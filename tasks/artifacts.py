"""What a run did, as artifacts in the Prefect UI."""

from __future__ import annotations

from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from configs.schema import Config
from reranking.report.summary import markdown_of
from reranking.summary import Summary
from tasks.assets import show_tables


def show_ingest(config: Config, report: dict[str, Any]) -> None:
    """Post the ingest's counts as a table artifact."""
    counts = {k: v for k, v in report.items() if isinstance(v, int)}
    create_table_artifact(
        [{"documents": k, "rows": v} for k, v in counts.items()],
        key="ingest",
        description=f"Documents of table {config.documents.table}",
    )
    show_tables(config.database, [config.documents.table])


def show_run(summary: Summary) -> dict[str, Any]:
    """Post counts, throughput and measures as artifacts; the summary as JSON-like values."""
    values, config = summary.as_dict(), summary.config
    rows = ["queries", "pairs", "scored", "reused", "seconds_saved", "rejected", "pairs_per_second"]
    create_table_artifact(
        [{"what": name, "value": values[name]} for name in rows],
        key="run-counts",
        description=f"Run {values['run_id']}",
    )
    create_markdown_artifact(markdown_of(values), key="run-summary")
    if summary.report is not None:
        create_markdown_artifact(
            summary.report["markdown"],
            key="report",
            description=f"Report on run {values['run_id']}",
        )
    made = [values["results_table"]] if values["computed"] else []
    published = values["consumers"]
    if published and published["database"] == config.database:
        made.append(published["table"])
    made_of = [config.documents.table, *(["pair_scores"] if config.rerank else [])]
    show_tables(config.database, made, made_of)
    return values


def show_reevaluation(summary: Summary) -> dict[str, Any]:
    """Post what `show_run` posts and the verdict; the summary as JSON-like values."""
    show_comparison(summary.comparison)
    show_run(summary)
    return summary.reevaluation()


def show_bakeoff(values: dict[str, Any]) -> None:
    """Post a bake-off's rows as a table artifact."""
    names = ["name", "mean", "difference", "verdict", "pairs_per_second", "seconds", "reason"]
    create_table_artifact(
        [{name: row[name] for name in names} for row in values["rows"]],
        key="bakeoff",
        description=f"{values['measure']} on {values['query_set']}, against {values['base']}",
    )


def show_comparison(answer: dict[str, Any] | None) -> None:
    """Post the verdict on a run against the promoted one; nothing if none is promoted."""
    if answer is None:
        return
    lines = []
    for compared in answer["comparisons"]:
        lines += [compared["sentence"], "", "| query type | measure | base | candidate | change |"]
        lines.append("|---|---|---|---|---|")
        for row in (r for r in compared["rows"] if r["queries"]):
            numbers = f"{row['base']:.3f} | {row['candidate']:.3f} | {row['difference']:+.3f}"
            lines.append(f"| {row['query_type']} | {row['measure']} | {numbers} |")
    create_markdown_artifact("\n".join(lines), key="comparison")


def show_labels(values: dict[str, Any]) -> None:
    """Post the rules side by side as a table artifact."""
    names = ("rule", "positive", "negative", "unsure", "precision", "recall")
    create_table_artifact(
        [{name: row[name] for name in names} for row in values["rules"]],
        key="label-rules",
        description=f"Label set {values['label_set'] or 'none'} ({values['status']})",
    )


def show_maintenance(report: dict[str, Any]) -> None:
    """Post what was done as a table artifact."""
    rows = [{"what": k, "value": len(v) if isinstance(v, list) else v} for k, v in report.items()]
    create_table_artifact(rows, key="maintain", description="Maintenance of the database")
