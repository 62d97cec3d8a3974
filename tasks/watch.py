"""Has a configured model changed since the promoted run? No weights are loaded to know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from configs.schema import Config
from reranking.errors import ConfigError, MissingResource
from reranking.evaluation.reevaluate import promoted
from reranking.store import Database
from tasks.settings import cross_encoder_of, encoder_of, refresh_encoder

MODEL_CHANGED = "model.changed"


@task(name="compare-fingerprints", cache_policy=NO_CACHE)
def changed_models(config: Config) -> list[dict[str, Any]]:
    """The models whose fingerprint is not the promoted run's: kind, name, before, now.

    Raises MissingResource where no run is promoted.
    """
    name = config.comparison.against
    if name == "first":
        raise ConfigError("watching needs comparison.against to name a promoted run, not `first`")
    base = promoted(Database(config.database, must_exist=True), name)
    if base is None:
        raise MissingResource(
            f"no run is promoted as {name!r}: there is nothing to watch against. Name one with "
            f"`rescore promote RUN_ID --as {name}`"
        )
    refresh_encoder(config)
    encoder, reranker = encoder_of(config), cross_encoder_of(config)
    configured = [
        (
            "encoder",
            None if encoder is None else encoder.settings.model,
            base.run["encoder"],
            None if encoder is None else encoder.fingerprint,
        ),
        (
            "reranker",
            None if reranker is None else reranker.settings.model_name,
            base.run["reranker"],
            None if reranker is None else reranker.fingerprint.hex(),
        ),
    ]
    return [
        {"kind": kind, "name": name or "none", "before": before, "now": now}
        for kind, name, before, now in configured
        if before != now
    ]


@task(name="announce-changes", cache_policy=NO_CACHE)
def announce(config: Config, changes: Sequence[dict[str, Any]]) -> None:
    """Emit `model.changed` for each model; automations may listen to it."""
    for change in changes:
        emit_event(
            event=MODEL_CHANGED,
            resource={"prefect.resource.id": f"rescore.model.{change['name']}"},
            payload={**change, "against": config.comparison.against, "database": config.database},
        )
