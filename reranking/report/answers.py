"""The report on a finished run as an HTML file: for its flow, and on request."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.schema import Config
from reranking.evaluation.run_comparison import Comparisons
from reranking.evaluation.sides import FIRST, Side, find_side, own_first_stage, promoted_side
from reranking.evaluation.sweep.run_sweep import Sweep
from reranking.report.collect import collect
from reranking.report.content import Report
from reranking.report.page import make_folder, write
from reranking.report.summary import markdown
from reranking.report.words import headline
from reranking.runs.run import Run
from reranking.store import Database


def write_for(config: Config, comparisons: Comparisons) -> dict[str, str]:
    """Write the report on a finished run into the config's folder; its `link` and `markdown`.

    It is compared with the promoted run, or with its own first stage if no other run of these
    queries is promoted.
    """
    run = comparisons.side.run
    base = promoted_side(run.database, config.comparison.against)
    if base is None or not _alike(base.run, run):
        base = _own_base(run)
    content = collect(comparisons, base)
    assert config.results.report is not None
    folder = Path(config.results.report)
    make_folder(folder)
    out = folder / f"{run.run_id}.html"
    write(content, out)
    served = config.results.report_url
    link = out.as_uri() if served is None else f"{served.rstrip('/')}/{out.name}"
    return {"link": link, "markdown": markdown(content, link)}


def _alike(base: Run, run: Run) -> bool:
    """Whether there is something to compare: another run, its queries and a query type shared."""
    shared = set(base.search.query_types) & set(run.search.query_types)
    return base.run_id != run.run_id and base.queries.name == run.queries.name and bool(shared)


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
    opened = Database(database, must_exist=True)
    subject = find_side(opened, run).run
    comparisons = Comparisons(opened, run, config or subject.config, judgment_list)
    return _written(collect(comparisons, _base(subject, against)), out)


def report_with_sweep(config: Config, run: Run, sweep: Sweep, out: Path) -> str:
    """Write the report on a run against its own first stage, with a sweep's curves; the file."""
    comparisons = Comparisons(run.database, run.run_id, config)
    content = collect(comparisons, _own_base(run))
    return str(_written(replace(content, sweep=sweep), out)["file"])


def _written(content: Report, out: Path) -> dict[str, Any]:
    size = write(content, out)
    return {
        "run_id": content.run.run_id,
        "against": None if content.against is None else content.against.run_id,
        "judgment_list": content.judgment_list,
        "verdict": None if content.comparison is None else content.comparison.verdict,
        "headline": headline(content),
        "file": str(out),
        "bytes": size,
    }


def _base(run: Run, against: str | None) -> Side | None:
    """What the run is compared with; None for a run without a reranker, unless one is named."""
    if against is not None and against != FIRST:
        return find_side(run.database, against)
    return _own_base(run)


def _own_base(run: Run) -> Side | None:
    """The run's own first stage; None for a run without a reranker."""
    return None if run.reranker is None else own_first_stage(run)
