"""Maintenance of a configured database: what the config lets it drop."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Any

from reranking.corpus.corpus import Corpus
from reranking.errors import ConfigError
from reranking.pipeline import Pipeline
from reranking.steps import step
from reranking.store import Database
from reranking.upkeep.maintain import VERSIONS, Configured, maintain


@step("maintain", 30)
def maintain_database(
    pipeline: Pipeline, dry_run: bool = False, older_than: float | None = None
) -> dict[str, Any]:
    """Look after the database; what was done, or in a dry run would be.

    Versions older than so many seconds are pruned, than a week if None is given.
    """
    database = Database(pipeline.config.database, must_exist=True, upgrading=True)
    keep, configured = pipeline.config.keep, configured_of(pipeline)
    versions = VERSIONS if older_than is None else timedelta(seconds=older_than)
    return maintain(database, keep, configured, versions=versions, dry_run=dry_run).as_dict()


def configured_of(pipeline: Pipeline) -> Configured | None:
    """Return what the config asks scores for; None if unused scores stay."""
    keep = pipeline.config.keep
    if keep is None or keep.scores == "all":
        return None
    return Configured(_corpus(pipeline), _rerankers(pipeline))


def _rerankers(pipeline: Pipeline) -> frozenset[bytes]:
    """The configured models' fingerprints, as they are on this machine."""
    models = [pipeline.reranker]
    with suppress(ConfigError):  # this machine has no half precision that could be refined
        models.append(pipeline.refiner)
    return frozenset(model.fingerprint for model in models if model is not None)


def _corpus(pipeline: Pipeline) -> Corpus:
    """The configured documents; maintenance reads their present version."""
    documents, rerank = pipeline.config.documents, pipeline.config.rerank
    scored = (None if rerank is None else rerank.column) or documents.text
    return Corpus(
        documents.table,
        0,
        documents.managed,
        documents.id,
        documents.text,
        documents.vector,
        scored,
        "text_hash" if documents.managed and scored == "text" else None,
        home=documents.database,
    )
