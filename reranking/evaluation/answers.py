"""What commands ask of stored runs: measures, comparisons, gates, history; no server is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from configs.schema import Config
from reranking.corpus.queries import read_queries
from reranking.errors import ConfigError
from reranking.evaluation.compare_run import compare_runs, deciding_query_type, judgments_for, party
from reranking.evaluation.comparison import Settings
from reranking.evaluation.evaluate_run import evaluate_run, means, slice_means
from reranking.evaluation.gate_run import Gated, gate_run
from reranking.evaluation.gates import Gate
from reranking.evaluation.history import history as measured_history
from reranking.evaluation.measures import DEFAULT_MEASURES, parse_measures
from reranking.evaluation.verdict import Rules
from reranking.runs.plan import pipeline_digest
from reranking.runs.run import Run, done_runs, find_run, newest_done
from reranking.store import Database


def gates_of(config: Config) -> list[Gate]:
    """The configured gates; raises ConfigError for one that asks for nothing."""
    return [Gate(**gate.model_dump()) for gate in config.gates]


def comparison_settings(config: Config | None, query_type: str) -> Settings:
    """How runs are compared; without a config by the defaults."""
    if config is None:
        return Settings(query_type=query_type)
    given = config.comparison
    measures = DEFAULT_MEASURES if config.judgments is None else config.judgments.measures
    return Settings(
        primary=given.primary,
        query_type=query_type,
        measures=tuple(dict.fromkeys([*measures, *(gate.metric for gate in config.gates)])),
        rules=Rules(margin=given.margin, alpha=given.alpha, min_queries=given.min_queries),
        correction=given.correction,
    )


def gate(config: Config, plan: Run) -> Gated | None:
    """The outcome of the configured gates for a finished run; None where there are no gates."""
    if not config.gates or config.judgments is None:
        return None
    types = plan.search.query_types
    query_type = config.comparison.query_type or ("hybrid" if "hybrid" in types else types[0])
    return gate_run(
        plan.database,
        plan,
        gates_of(config),
        comparison_settings(config, query_type),
        against=config.comparison.against,
        judgment_list=config.judgments.judgment_list,
    )


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
    """The comparison of stored runs as JSON-like values."""
    opened = Database(database, must_exist=True)
    sides = [party(opened, name) for name in (base, *candidates)]
    named = None if config is None or config.judgments is None else config.judgments.judgment_list
    asked = query_type or (None if config is None else config.comparison.query_type)
    settings = comparison_settings(config, deciding_query_type(asked, sides))
    if primary is not None:
        settings = replace(settings, primary=primary)
    chosen = judgments_for(opened, judgment_list or named, sides)
    found = compare_runs(opened, sides[0], sides[1:], chosen, settings, strict=strict)
    return found.to_dict()


def evaluate(config: Config, run: str | None) -> dict[str, Any]:
    """The measures of a stored run (None: the newest finished one of the pipeline), its gates."""
    assert config.judgments is not None
    database = Database(config.database, must_exist=True)
    plan = find_run(database, run) if run else newest_done(database, pipeline_digest(config))
    primary = config.comparison.primary
    asked = tuple(dict.fromkeys([primary, *config.judgments.measures]))
    done = evaluate_run(database, plan, config.judgments.judgment_list, asked)
    found = gate(config, plan)
    return {
        "run_id": plan.run_id,
        "judgment_list": config.judgments.judgment_list,
        "judgments": done.judgments_fp,
        "queries": plan.queries.count,
        "unjudged_queries": done.unjudged_queries,
        "stale_grades": done.stale,
        "primary": primary,
        "measures": means(done.metrics).to_pylist(),
        "slices": slice_means(done.metrics, read_queries(database, plan.queries), primary),
        "gates": None if found is None else found.to_dict(),
    }


def history(
    database: str,
    config: Config | None,
    measure: str,
    query_type: str | None,
    judgment_list: str | None,
    last: int,
) -> list[dict[str, Any]]:
    """The measure of the newest `last` runs, of the config's pipeline or of all, oldest first."""
    opened = Database(database, must_exist=True)
    name = str(parse_measures([measure])[0])
    pipeline = None if config is None else pipeline_digest(config)
    rows = done_runs(opened, pipeline)[:last]
    if not rows:
        newest_done(opened, pipeline or "")
    named = None if config is None or config.judgments is None else config.judgments.judgment_list
    newest = party(opened, rows[0].run_id)
    chosen = judgments_for(opened, judgment_list or named, [newest])
    if chosen is None:
        raise ConfigError("no judgment list is stored: measures need one; see judgments.source")
    set_of_newest = [row for row in rows if row.queries.name == newest.plan.queries.name]
    found = measured_history(opened, set_of_newest, chosen, name)
    return [row for row in found if query_type in (None, row["query_type"])]
