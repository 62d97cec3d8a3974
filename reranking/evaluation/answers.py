"""What commands ask of stored runs: measures, comparisons, gates, history; no server is needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from configs.evaluation import ComparisonSettings
from configs.schema import Config
from reranking.errors import ConfigError, MissingResource
from reranking.evaluation.data_gates import both, check_recall
from reranking.evaluation.gates import gate_run
from reranking.evaluation.measures import parse_measures
from reranking.evaluation.run_comparison import Comparisons, asked_measures, compare_sides
from reranking.evaluation.run_measures import evaluate_run, means, slice_means
from reranking.evaluation.run_measures import history as measured_history
from reranking.evaluation.run_ties import ties_of
from reranking.evaluation.sides import Side, find_side, judgments_of
from reranking.evaluation.unknown import unknown_to
from reranking.runs.listing import done_runs, find_run, newest_done
from reranking.runs.run import Run
from reranking.runs.settings import pipeline_of
from reranking.store import Database


def measured(run: Run, config: Config) -> dict[str, Any]:
    """Return the means of a run's measures, and what is judged that it does not know.

    `sets` holds the same of each query set that the config makes the queries of.
    """
    sets = [
        {"query_set": name, "queries": own.query_rows.num_rows, **_measured(own, one)}
        for name, own, one in each_set(run, config)
    ]
    return _measured(run, config) | {"sets": sets}


def _measured(run: Run, config: Config) -> dict[str, Any]:
    judgments = config.judgments
    if judgments is None:
        return {"judgment_list": None, "measures": [], "unknown": None}
    done = evaluate_run(
        run,
        judgments.judgment_list,
        judgments.measures,
        ignore_identical_ids=judgments.ignore_identical_ids,
    )
    return {
        "judgment_list": judgments.judgment_list,
        "measures": means(done.metrics).to_pylist(),
        "unknown": unknown_to(run, judgments.judgment_list).to_dict(),
    }


def each_set(run: Run, config: Config) -> Iterator[tuple[str, Run, Config]]:
    """Yield each query set of the config: its name, and run and config as they are for it alone."""
    for name in config.queries.sets:
        yield name, run.of_set(name), config.of_set(name)


def gates(config: Config, comparisons: Comparisons) -> dict[str, Any] | None:
    """Return the outcome of every condition of the config's gates, and of an index' recall.

    None if there is nothing to check.
    """
    return both(_judged_gates(config, comparisons), check_recall(config, comparisons.side.run))


def _judged_gates(config: Config, comparisons: Comparisons) -> dict[str, Any] | None:
    """The gates on measures; those of a query set on its queries alone, each naming its set."""
    outcomes = {None: _gated(config, comparisons)} | {
        name: _gated(config.of_set(name), own) for name, own in comparisons.sets.items()
    }
    made = {name: outcome for name, outcome in outcomes.items() if outcome is not None}
    if not made:
        return None
    whole = made.get(None)
    return {
        "against": next(iter(made.values()))["against"],
        "sentence": None if whole is None else whole["sentence"],
        "verdict": None if whole is None else whole["verdict"],
        "passed": all(outcome["passed"] for outcome in made.values()),
        "reasons": [_of(name, text) for name, o in made.items() for text in o["reasons"]],
        "conditions": [
            row | {"query_set": name, "reason": _of(name, row["reason"])}
            for name, outcome in made.items()
            for row in outcome["conditions"]
        ],
    }


def _of(query_set: str | None, text: str) -> str:
    return text if query_set is None else f"{query_set}: {text}"


def _gated(config: Config, comparisons: Comparisons) -> dict[str, Any] | None:
    if not config.gates or config.judgments is None:
        return None
    return gate_run(
        comparisons,
        config.gates,
        against=config.comparison.against,
        judgment_list=config.judgments.judgment_list,
    ).to_dict()


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
    given = {"primary": primary, "query_type": query_type}
    changed = {k: v for k, v in given.items() if v is not None}

    def compared(sides: list[Side], config: Config | None) -> dict[str, Any]:
        named = None if config is None or config.judgments is None else config.judgments
        settings = ComparisonSettings() if config is None else config.comparison
        return compare_sides(
            sides[0],
            sides[1:],
            judgments_of(sides, judgment_list or (None if named is None else named.judgment_list)),
            settings.model_copy(update=changed),
            asked_measures(config),
            strict=strict,
            ignore_identical_ids=config is not None and config.ignore_identical_ids,
        ).to_dict()

    told = sides[-1].run.sets if config is None else tuple(config.queries.sets)
    sets = {
        name: compared([s.of_set(name) for s in sides], config and config.of_set(name))
        for name in told
    }
    return compared(sides, config) | {"sets": sets}


def evaluate(config: Config, run: str | None) -> dict[str, Any]:
    """Return the measures of a stored run (None: the pipeline's newest finished one), its gates.

    `sets` holds the same of each query set that the config makes the queries of.
    """
    database = Database(config.database, must_exist=True)
    chosen = find_run(database, run) if run else newest_done(database, config)
    return {
        "run_id": chosen.run_id,
        "primary": config.comparison.primary,
        **_evaluated(chosen, config),
        "sets": [
            {"query_set": name, **_evaluated(own, one)}
            for name, own, one in each_set(chosen, config)
        ],
        "gates": gates(config, Comparisons(database, chosen.run_id, config)),
    }


def _evaluated(run: Run, config: Config) -> dict[str, Any]:
    """What a run measures on its judgment list; without one only its queries are counted."""
    judgments, count = config.judgments, run.query_rows.num_rows
    if judgments is None:
        nothing: dict[str, Any] = {"judgments": None, "unknown": None, "stale_grades": 0}
        return nothing | {
            "judgment_list": None,
            "queries": count,
            "unjudged_queries": count,
            **{name: [] for name in ("ties", "measures", "slices")},
        }
    primary, ignore = config.comparison.primary, judgments.ignore_identical_ids
    asked = tuple(dict.fromkeys([primary, *judgments.measures]))
    done = evaluate_run(run, judgments.judgment_list, asked, ignore_identical_ids=ignore)
    return {
        "judgment_list": judgments.judgment_list,
        "judgments": done.judgments_fp,
        "queries": count,
        "unjudged_queries": done.unjudged_queries,
        "stale_grades": done.stale,
        "unknown": unknown_to(run, judgments.judgment_list).to_dict(),
        "ties": ties_of(run, judgments.judgment_list, primary, ignore_identical_ids=ignore),
        "measures": means(done.metrics).to_pylist(),
        "slices": slice_means(done.metrics, run.query_rows, primary),
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
    newest = find_side(opened, runs[0].run_id)
    of_set = [run for run in runs if run.queries.name == newest.run.queries.name]

    def told(side: Side, runs: list[Run], config: Config | None) -> list[dict[str, Any]]:
        named = None if config is None or config.judgments is None else config.judgments
        asked = judgment_list or (None if named is None else named.judgment_list)
        chosen = judgments_of([side], asked)
        if chosen is None:
            return []
        return measured_history(
            runs,
            chosen,
            name,
            ignore_identical_ids=named is not None and named.ignore_identical_ids,
            together=pipeline is not None,
        )

    rows = told(newest, of_set, config)
    for one in newest.run.sets if config is None else config.queries.sets:
        views = [run.of_set(one) for run in of_set]
        rows += told(newest.of_set(one), views, config and config.of_set(one))
    if not rows:
        raise ConfigError("no judgment list is stored: measures need one; see judgments.source")
    return [row for row in rows if query_type in (None, row["query_type"])]
