"""Store the query set and the judgment list under their names."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.schema import Config
from reranking.corpus.queries import pin_queries, read_queries, store_queries
from reranking.judgments.store import store_judgments
from reranking.sources import open as sources
from reranking.store import Database


@task(name="load-queries", cache_policy=NO_CACHE)
def load_queries(config: Config) -> int:
    """Bring the stored query set in line with its source; the number of rejected rows."""
    if config.queries.source is None:
        return 0
    source = config.queries.source
    return store_queries(
        Database(config.database),
        config.queries.query_set,
        sources.read_queries(source),
        sources.source_fingerprint(source, "queries"),
    )


@task(name="load-judgments", cache_policy=NO_CACHE)
def load_judgments(config: Config) -> dict[str, int]:
    """Bring the stored judgment list in line with its source; rows rejected and stale."""
    given = config.judgments
    if given is None or given.source is None:
        return {"rejected": 0, "stale": 0}
    database, source = Database(config.database), given.source
    done = store_judgments(
        database,
        given.judgment_list,
        read_queries(database, pin_queries(database, config.queries.query_set)),
        sources.read_judgments(source),
        rater=given.rater,
        source_fp=sources.source_fingerprint(source, "judgments"),
        accept_reworded=given.accept_reworded,
    )
    return {"rejected": done.rejected, "stale": done.stale}
