"""What the configured run will cost, told before it: nothing is written."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pyarrow as pa

from reranking.corpus.queries import pin_queries, queries_of, read_queries
from reranking.pipeline import Pipeline
from reranking.runs.estimate import estimate
from reranking.sources import open as sources
from reranking.store import Database


def forecast(pipeline: Pipeline) -> dict[str, Any]:
    """Estimate pairs, hours and gigabytes from a sample of the queries.

    Documents are those of the last completed ingest. Raises what the run itself would raise.
    """
    pipeline.check()
    database = Database(pipeline.config.database, must_exist=True)
    corpus = pipeline.corpus()
    done = estimate(
        database,
        corpus,
        queries_asked(pipeline),
        pipeline.search_of(corpus),
        pipeline.encoder,
        pipeline.reranker,
    )
    return asdict(done)


def queries_asked(pipeline: Pipeline) -> pa.Table:
    """Read the queries of the config's source, the stored ones if it names none."""
    given = pipeline.config.queries
    if given.sets:
        return pipeline.query_sets.whole
    if given.source is not None:
        return queries_of(given.query_set, sources.read_queries(given.source))[0]
    database = Database(pipeline.config.database, must_exist=True)
    return read_queries(database, pin_queries(database, given.query_set))
