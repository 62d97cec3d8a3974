"""Search one chunk of queries."""

from __future__ import annotations

import time

from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.schema import Config
from reranking.candidates import search_and_store
from reranking.runs import Plan
from reranking.store import Database
from tasks.retries import may_pass
from tasks.settings import encoder_of


@task(
    name="search-chunk",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[5, 30],
    retry_condition_fn=may_pass,
)
def search_chunk(config: Config, plan: Plan, chunk: int) -> float:
    """Store the candidates of one chunk unless that is done; seconds it took."""
    started = time.monotonic()
    search_and_store(Database(plan.database), plan, chunk, encoder_of(config))
    return time.monotonic() - started
