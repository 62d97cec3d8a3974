"""Look after the configured database."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from prefect import task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE

from configs.schema import Config
from reranking.corpus.corpus import Corpus
from reranking.errors import ConfigError
from reranking.store import Database
from reranking.upkeep.maintain import MaintainSettings, maintain
from reranking.upkeep.retention import Keep
from tasks.retries import may_pass
from tasks.settings import cross_encoder_of, refiner_of


@task(
    name="maintain",
    cache_policy=NO_CACHE,
    retries=1,
    retry_delay_seconds=30,
    retry_condition_fn=may_pass,
)
def maintain_database(config: Config, dry_run: bool = False) -> dict[str, Any]:
    """What maintenance did, or would do."""
    database = Database(config.database, must_exist=True, upgrading=True)
    return maintain(database, settings_of(config), dry_run=dry_run).as_dict()


def settings_of(config: Config) -> MaintainSettings:
    """What the config lets maintenance drop."""
    keep = config.keep
    if keep is None:
        return MaintainSettings()
    unused = keep.scores == "used"
    return MaintainSettings(
        keep=Keep(keep.runs, keep.days),
        drop_unused=unused,
        corpus=_corpus(config),
        rerankers=_rerankers(config) if unused else frozenset(),
    )


def _rerankers(config: Config) -> frozenset[bytes]:
    """The configured models' fingerprints, as they are on this machine."""
    models = [cross_encoder_of(config)]
    with suppress(ConfigError):  # this machine has no half precision that could be refined
        models.append(refiner_of(config))
    return frozenset(model.fingerprint for model in models if model is not None)


def _corpus(config: Config) -> Corpus:
    """The configured documents; maintenance reads their present version."""
    documents = config.documents
    column = None if config.rerank is None else config.rerank.column
    scored = column or documents.text
    stored = "text_hash" if documents.managed and scored == "text" else None
    return Corpus(
        documents.table,
        0,
        documents.managed,
        documents.id,
        documents.text,
        documents.vector,
        scored,
        stored,
    )


def show_maintenance(report: dict[str, Any]) -> None:
    """Post what was done as a table artifact."""
    rows = [{"what": k, "value": len(v) if isinstance(v, list) else v} for k, v in report.items()]
    create_table_artifact(rows, key="maintain", description="Maintenance of the database")
