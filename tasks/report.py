"""The report on a finished run: an HTML file, and a Prefect artifact that leads to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from pydantic import ValidationError

from configs.schema import Config
from reranking.evaluation.compare_run import FIRST, Party, deciding_query_type, party
from reranking.evaluation.reevaluate import promoted
from reranking.report.collect import collect
from reranking.report.content import Report
from reranking.report.page import make_folder, write
from reranking.report.summary import markdown
from reranking.report.words import headline
from reranking.runs.run import Run
from reranking.store import Database
from tasks.verdicts import comparison_settings


@task(name="write-report", cache_policy=NO_CACHE)
def write_report(config: Config, plan: Run) -> str | None:
    """Write the report on a finished run and post its summary; a link to the file.

    It is compared with the promoted run, or with its own first stage where no other run of these
    queries is promoted. None where the config names no folder for reports.
    """
    if config.results.report is None:
        return None
    base = promoted(plan.database, config.comparison.against)
    other = base.plan.run_id if base is not None and _alike(base.plan, plan) else None
    listed = None if config.judgments is None else config.judgments.judgment_list
    found = _collected(plan.database.uri, config, plan.run_id, other, listed)
    folder = Path(config.results.report)
    make_folder(folder)
    out = folder / f"{plan.run_id}.html"
    write(found, out)
    link = out.as_uri()
    create_markdown_artifact(
        markdown(found, link), key="report", description=f"Report on run {plan.run_id}"
    )
    return link


def _alike(base: Run, plan: Run) -> bool:
    """Whether there is something to compare: another run, its queries and a query type shared."""
    shared = set(base.search.query_types) & set(plan.search.query_types)
    return base.run_id != plan.run_id and base.queries.name == plan.queries.name and bool(shared)


def report(
    database: str,
    config: Config | None,
    run: str,
    against: str | None,
    judgment_list: str | None,
    out: Path,
) -> dict[str, Any]:
    """Write the report on a run, against another one or (None) its own first stage.

    Without a config the run's own says how it is compared.
    """
    return _written(_collected(database, config, run, against, judgment_list), out)


def _written(found: Report, out: Path) -> dict[str, Any]:
    size = write(found, out)
    return {
        "run_id": found.run.run_id,
        "against": None if found.against is None else found.against.run_id,
        "judgment_list": found.judgment_list,
        "verdict": None if found.comparison is None else found.comparison.verdict,
        "headline": headline(found),
        "file": str(out),
        "bytes": size,
    }


def _collected(
    database: str,
    config: Config | None,
    run: str,
    against: str | None,
    judgment_list: str | None,
) -> Report:
    opened = Database(database, must_exist=True)
    subject = party(opened, run)
    base = _base(opened, subject, against)
    config = config or _own_config(subject)
    asked = None if config is None else config.comparison.query_type
    sides = [subject] if base is None else [base, subject]
    settings = comparison_settings(config, deciding_query_type(asked, sides))
    return collect(opened, subject, base, judgment_list, settings)


def _base(database: Database, subject: Party, against: str | None) -> Party | None:
    """What the run is compared with; None for a run without a reranker, unless one is named."""
    if against is not None and against != FIRST:
        return party(database, against)
    if subject.plan.reranker is None:
        return None
    return party(database, f"{subject.plan.run_id}:{FIRST}")


def _own_config(subject: Party) -> Config | None:
    """The config that the run was started with; None where an older rescore wrote another one."""
    try:
        return Config.model_validate_json(subject.run["config_json"])
    except ValidationError:
        return None
