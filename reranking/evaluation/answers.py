"""What commands ask of stored runs: measures, comparisons, gates, history; no server is needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from configs.evaluation import ComparisonSettings, Judgments
from configs.schema import Config
from reranking.errors import ConfigError, MissingResource
from reranking.evaluation.data_gates import both, check_recall
from reranking.evaluation.gates import gate_run
from reranking.evaluation.measures import parse_measures
from reranking.evaluation.run_comparison import Comparisons, asked_measures, compare_sides
from reranking.evaluation.run_measures import evaluate_run, means, slice_means
from reranking.evaluation.run_measures import history as measured_history
from reranking.evaluation.run_ties import ties_of
from reranking.evaluation.sides import find_side, judgments_of
from reranking.evaluation.unknown import unknown_to
from reranking.runs.listing import done_runs, find_run, newest_done
from reranking.runs.run import Run
from reranking.runs.settings import pipeline_of
from reranking.store import Database


def measured(run: Run, judgments: Judgments) -> dict[str, Any]:
    """Return the means of a run's measures, and what is judged that it does not know."""
    done = evaluate_run(
        run,
        judgments.judgment_list,
        judgments.measures,
        ignore_identical_ids=judgments.ignore_identical_ids,
    )
    unknown = unknown_to(run, judgments.judgment_list)
    return {"measures": means(done.metrics).to_pylist(), "unknown": unknown.to_dict()}


def gates(config: Config, comparisons: Comparisons) -> dict[str, Any] | None:
    """Return the outcome of every condition of the config's gates, and of an index' recall.

    None if there is nothing to check.
    """
    judged = None
    if config.gates and config.judgments is not None:
        judged = gate_run(
            comparisons,
            config.gates,
            against=config.comparison.against,
            judgment_list=config.judgments.judgment_list,
        ).to_dict()
    return both(judged, check_recall(config, comparisons.side.run))


def compare(
    database: str,
    config: Config | None,
    base: str,
    candidates: Sequence[str],
    *,
    judgment_list: str | None = None,
    primary: str | None = None,
    query_type: str | None = None,
    strict: bool = False,
) -> dict[str, Any]:
    """Return the comparison of stored runs as JSON-like values."""
    opened = Database(database, must_exist=True)
    sides = [find_side(opened, name) for name in (base, *candidates)]
    named = None if config is None or config.judgments is None else config.judgments.judgment_list
    settings = ComparisonSettings() if config is None else config.comparison
    given = {"primary": primary, "query_type": query_type}
    settings = settings.model_copy(update={k: v for k, v in given.items() if v is not None})
    return compare_sides(
        sides[0],
        sides[1:],
        judgments_of(sides, judgment_list or named),
        settings,
        asked_measures(config),
        strict=strict,
        ignore_identical_ids=config is not None and config.ignore_identical_ids,
    ).to_dict()


def evaluate(config: Config, run: str | None) -> dict[str, Any]:
    """Return the measures of a stored run (None: the pipeline's newest finished one), its gates."""
    assert config.judgments is not None
    database = Database(config.database, must_exist=True)
    chosen = find_run(database, run) if run else newest_done(database, config)
    primary = config.comparison.primary
    asked = tuple(dict.fromkeys([primary, *config.judgments.measures]))
    done = evaluate_run(
        chosen,
        config.judgments.judgment_list,
        asked,
        ignore_identical_ids=config.ignore_identical_ids,
    )
    return {
        "run_id": chosen.run_id,
        "judgment_list": config.judgments.judgment_list,
        "judgments": done.judgments_fp,
        "queries": chosen.queries.count,
        "unjudged_queries": done.unjudged_queries,
        "stale_grades": done.stale,
        "unknown": unknown_to(chosen, config.judgments.judgment_list).to_dict(),
        "primary": primary,
        "ties": ties_of(
            chosen,
            config.judgments.judgment_list,
            primary,
            ignore_identical_ids=config.ignore_identical_ids,
        ),
        "measures": means(done.metrics).to_pylist(),
        "slices": slice_means(done.metrics, chosen.query_rows, primary),
        "gates": gates(config, Comparisons(database, chosen.run_id, config)),
    }


def history(
    database: str,
    config: Config | None,
    measure: str,
    query_type: str | None,
    judgment_list: str | None,
    last: int,
) -> list[dict[str, Any]]:
    """Return the measure of the newest `last` runs, of the config's pipeline or of all.

    `changed` says what a run was set to otherwise than the one before it: another model goes on.
    """
    opened = Database(database, must_exist=True)
    name = str(parse_measures([measure])[0])
    pipeline = None if config is None else pipeline_of(config)
    runs = done_runs(opened, pipeline)[:last]
    if not runs:
        whose = "" if pipeline is None else f" of the pipeline {pipeline}"
        raise MissingResource(
            f"no finished run{whose} in {opened.uri}: start `rescore run` first (`rescore runs` "
            "lists the others)"
        )
    named = None if config is None or config.judgments is None else config.judgments.judgment_list
    newest = find_side(opened, runs[0].run_id)
    chosen = judgments_of([newest], judgment_list or named)
    if chosen is None:
        raise ConfigError("no judgment list is stored: measures need one; see judgments.source")
    of_set = [run for run in runs if run.queries.name == newest.run.queries.name]
    rows = measured_history(
        of_set,
        chosen,
        name,
        ignore_identical_ids=config is not None and config.ignore_identical_ids,
        together=pipeline is not None,
    )
    return [row for row in rows if query_type in (None, row["query_type"])]
