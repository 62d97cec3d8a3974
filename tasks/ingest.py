"""Bring the documents table in line with its source."""

from __future__ import annotations

from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.schema import Config
from reranking.corpus.ingest import ingest
from reranking.sources.open import read_documents
from reranking.store import Database
from tasks.encoding import encoding
from tasks.progress import Watcher
from tasks.retries import may_pass
from tasks.settings import ingest_settings


@task(
    name="ingest-documents",
    cache_policy=NO_CACHE,
    retries=1,
    retry_delay_seconds=5,
    retry_condition_fn=may_pass,
)
def ingest_documents(config: Config) -> dict[str, Any]:
    """What the ingest did, in rows; nothing for a table that is not managed or has no source."""
    if config.documents.source is None:
        return {}
    database = Database(config.database)
    settings = ingest_settings(config, database)
    rows = read_documents(config.documents.source)
    with Watcher("documents") as progress, encoding(config) as encoder:
        report = ingest(database, rows, encoder, settings, progress)
    return report.as_dict()
