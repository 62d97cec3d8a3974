"""Maintenance of a configured database: what the config lets it drop."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from reranking.corpus.corpus import Corpus
from reranking.errors import ConfigError
from reranking.pipeline import Pipeline
from reranking.steps import step
from reranking.store import Database
from reranking.upkeep.maintain import MaintainSettings, maintain
from reranking.upkeep.retention import Keep


@step("maintain", 30)
def maintain_database(pipeline: Pipeline, dry_run: bool = False) -> dict[str, Any]:
    """Look after the database; what was done, or in a dry run would be."""
    database = Database(pipeline.config.database, must_exist=True, upgrading=True)
    return maintain(database, settings_of(pipeline), dry_run=dry_run).as_dict()


def settings_of(pipeline: Pipeline) -> MaintainSettings:
    """Return what the config lets maintenance drop."""
    keep = pipeline.config.keep
    if keep is None:
        return MaintainSettings()
    unused = keep.scores == "used"
    return MaintainSettings(
        keep=Keep(keep.runs, keep.days),
        drop_unused=unused,
        corpus=_corpus(pipeline),
        rerankers=_rerankers(pipeline) if unused else frozenset(),
    )


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
    )
