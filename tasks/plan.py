"""Decide on the run: which it is, whether it is finished, what it pins."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.schema import Config
from reranking.corpus.corpus import Corpus
from reranking.corpus.queries import QuerySet, pin_queries, read_queries
from reranking.evaluation.measures import parse_measures
from reranking.judgments.lists import grades
from reranking.runs.plan import begin_run, plan_run
from reranking.runs.publish import check_columns, consumer_marks
from reranking.runs.run import Run, stored_row
from reranking.store import Database
from tasks.pipeline import pipeline_of
from tasks.retries import may_pass
from tasks.settings import (
    corpus_of,
    cross_encoder_of,
    encoder_of,
    ranking_of,
    refiner_of,
    refresh_encoder,
    search_settings,
)
from tasks.verdicts import gates_of


def check(config: Config) -> None:
    """Raise for what is wrong with the config and can be told before any model is loaded."""
    if config.judgments is not None:
        parse_measures([*config.judgments.measures, config.comparison.primary])
        gates_of(config)
    refresh_encoder(config)
    cross_encoder_of(config)
    refiner_of(config)


@task(
    name="plan-run",
    cache_policy=NO_CACHE,
    retries=1,
    retry_delay_seconds=5,
    retry_condition_fn=may_pass,
)
def plan(config: Config, force: bool = False) -> Run:
    """The run that the config and the present inputs name; its row is written unless finished."""
    database = Database(config.database)
    corpus = corpus_of(config, database, encoder_of(config))
    queries = pin_queries(database, config.queries.query_set)
    return begin(config, database, planned(config, database, corpus, queries, force))


def planned(
    config: Config, database: Database, corpus: Corpus, queries: QuerySet, force: bool = False
) -> Run:
    """The run that the config and these inputs name; nothing is written.

    What it could not end with is raised before the work is done.
    """
    encoder = encoder_of(config)
    if config.results.publish is not None:
        consumer_marks(database, config.results.publish)
    check_columns(database, corpus, config.results.columns)
    if config.judgments is not None:
        grades(database, config.judgments.judgment_list, read_queries(database, queries))
    given = ranking_of(config, database, corpus, queries)
    return plan_run(
        database,
        corpus,
        queries,
        search_settings(config, database, corpus),
        encoder=None if encoder is None else encoder.fingerprint,
        reranker=cross_encoder_of(config),
        return_score="relevance" if config.rerank is None else config.rerank.return_score,
        top_k=None if config.rerank is None else config.rerank.top_k,
        refiner=refiner_of(config),
        ranking=None if given is None else given.content,
        force=force,
    )


def begin(config: Config, database: Database, run: Run) -> Run:
    """Write the run's row unless it is finished; the plan at the versions that are pinned."""
    if run.finished and stored_row(database, run.run_id) is not None:
        return run
    encoder, reranker = encoder_of(config), cross_encoder_of(config)
    return begin_run(
        run,
        {
            "pipeline": pipeline_of(config),
            "encoder": None if encoder is None else encoder.fingerprint,
            "reranker_model": None if reranker is None else reranker.settings.model_name,
            "reranker_revision": None if reranker is None else reranker.folder.revision,
            "config_json": config.model_dump_json(),
        },
    )
