"""Another model on the stored candidates, compared with the promoted run."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.schema import Config
from reranking.corpus.vector_columns import (
    Encoded,
    add_vectors,
    encoder_column,
    vector_columns,
)
from reranking.evaluation.compare_run import Party
from reranking.evaluation.reevaluate import (
    encoded_corpus,
    need_candidates,
    promoted,
    promoted_corpus,
    promoted_queries,
)
from reranking.runs.run import Run
from reranking.scoring.encoder import SentenceEncoder
from reranking.store import Database
from reranking.upkeep.columns import live_columns
from tasks import verdicts
from tasks.evaluate import evaluate
from tasks.gate import check_gates, refuse_failed
from tasks.introduce import tag_flow_run
from tasks.load import load_judgments
from tasks.plan import begin, check, planned
from tasks.progress import Watcher
from tasks.publish import publish, recall
from tasks.report import write_report
from tasks.retries import may_pass
from tasks.settings import by_vectors, corpus_of, encoder_of, index_settings
from tasks.shards import work_on_chunks
from tasks.show import show_comparison, show_run
from tasks.summary import Summary


def reevaluate(config: Config) -> dict[str, Any]:
    """The steps of a reevaluation, for flows: what it did and how it compares.

    Raises GateFailed, with all that in its `values`, where the config's gates fail. The table for
    consumers is not touched: that is for `rescore run` after the run is promoted.
    """
    check(config)
    tag_flow_run(config)
    summary = Summary(config)
    with summary.timed("encode"):
        encoded = encode_vectors(config)
        summary.rejected(load_judgments(config)["rejected"])
    run = plan_again(config)
    if run.finished:
        summary.repeated(run, recall(run))
    else:
        for report in work_on_chunks(config, run):
            summary.worked(report)
        with summary.timed("publish"):
            summary.published(run, publish(config, run, summary.counts, summary.seconds))
    with summary.timed("evaluate"):
        summary.evaluated(evaluate(config, run))
        summary.gated(check_gates(config, run))
        summary.reported(write_report(config, run))
        compared = compare_with_promoted(config, run)
    show_comparison(compared)
    return refuse_failed({**show_run(summary), "encoded": encoded, "comparison": compared})


@task(name="encode-new-vectors", cache_policy=NO_CACHE)
def encode_vectors(config: Config) -> int:
    """Give every document a vector of the configured encoder; how many had none yet."""
    found = _encode(config, Database(config.database))
    return 0 if found is None else found.encoded


def _encode(config: Config, database: Database) -> Encoded | None:
    """The encoder's complete column; None where the table's only column is its own already."""
    encoder, table = encoder_of(config), config.documents.table
    if encoder is None or not config.documents.managed or not by_vectors(config):
        return None
    marks = vector_columns(database, table)
    if not marks or list(marks.values()) == [encoder.fingerprint]:
        return None
    with Watcher("documents") as progress:
        return add_vectors(
            database,
            table,
            encoder,
            commit_seconds=config.execution.commit_seconds,
            indexes=index_settings(config),
            progress=progress,
        )


@task(
    name="plan-reevaluation",
    cache_policy=NO_CACHE,
    retries=1,
    retry_delay_seconds=5,
    retry_condition_fn=may_pass,
)
def plan_again(config: Config) -> Run:
    """The run of the configured models on the promoted run's inputs.

    Raises MissingResource where it would have to search for another reason than a new encoder.
    """
    database, encoder = Database(config.database), encoder_of(config)
    base = promoted(database, config.comparison.against)
    column = _other_column(config, database, encoder, base)
    scored = None if config.rerank is None else config.rerank.column
    table = config.documents.table
    if column is not None:
        corpus = encoded_corpus(database, table, scored, column)
    else:
        corpus = promoted_corpus(base, table, scored) or corpus_of(config, database, encoder)
    queries = promoted_queries(database, base, config.queries.query_set)
    run = planned(config, database, corpus, queries)
    if column is None:
        need_candidates(database, run)
    return begin(config, database, run)


def _other_column(
    config: Config, database: Database, encoder: SentenceEncoder | None, base: Party | None
) -> str | None:
    """The column to search in where the encoder is another than the promoted run's."""
    if encoder is None or not config.documents.managed or not by_vectors(config):
        return None
    table = config.documents.table
    column = encoder_column(database, table, encoder.fingerprint)
    if base is None:
        return None if column in live_columns(database, table) else column
    return None if base.run["encoder"] == encoder.fingerprint else column


@task(name="compare-with-promoted", cache_policy=NO_CACHE)
def compare_with_promoted(config: Config, plan: Run) -> dict[str, Any] | None:
    """The comparison with the promoted run; None where no run is promoted."""
    if promoted(plan.database, config.comparison.against) is None:
        return None
    return verdicts.compare(plan.database.uri, config, config.comparison.against, [plan.run_id])
