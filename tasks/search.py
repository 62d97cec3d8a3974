"""Search one chunk of queries."""

from __future__ import annotations

import time

from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.schema import Config
from reranking.runs.candidates import search_and_store
from reranking.runs.given_ranking import store_given_ranking
from reranking.runs.run import Run
from reranking.sources.open import source_fingerprint
from tasks.retries import may_pass
from tasks.settings import encoder_of, ranking_of


@task(
    name="search-chunk",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[5, 30],
    retry_condition_fn=may_pass,
)
def search_chunk(config: Config, plan: Run, chunk: int) -> float:
    """Store the candidates of one chunk unless that is done; seconds it took."""
    started = time.monotonic()
    search_and_store(plan, chunk, encoder_of(config))
    return time.monotonic() - started


@task(name="store-ranking", cache_policy=NO_CACHE)
def store_ranking(config: Config, plan: Run) -> int:
    """Store the configured ranking, if there is one, as the candidates; its rejected rows."""
    database = plan.database
    given = ranking_of(config, database, plan.corpus, plan.queries)
    if given is None or config.candidates is None:
        return 0
    source_fp = source_fingerprint(config.candidates.source, "ranking")
    return store_given_ranking(plan, given, source_fp)
