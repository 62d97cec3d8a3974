"""The report on a finished run as an HTML file: for its flow, and on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from configs.schema import Config
from reranking.evaluation.answers import comparison_settings
from reranking.evaluation.compare_run import FIRST, Party, deciding_query_type, party
from reranking.report.collect import collect
from reranking.report.content import Report
from reranking.report.page import make_folder, write
from reranking.report.summary import markdown
from reranking.report.words import headline
from reranking.runs.promotion import promoted_run
from reranking.runs.run import Run
from reranking.store import Database


def write_for(config: Config, run: Run) -> dict[str, str]:
    """Write the report on a finished run into the config's folder; its `link` and `markdown`.

    It is compared with the promoted run, or with its own first stage if no other run of these
    queries is promoted.
    """
    against = config.comparison.against
    base = None
    if against != FIRST and promoted_run(run.database, against) is not None:
        base = party(run.database, against)
    other = base.plan.run_id if base is not None and _alike(base.plan, run) else None
    listed = None if config.judgments is None else config.judgments.judgment_list
    report = _collected(run.database.uri, config, run.run_id, other, listed)
    assert config.results.report is not None
    folder = Path(config.results.report)
    make_folder(folder)
    out = folder / f"{run.run_id}.html"
    write(report, out)
    link = out.as_uri()
    return {"link": link, "markdown": markdown(report, link)}


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
