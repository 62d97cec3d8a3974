"""Tell automations of a changed model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from configs.schema import Config

MODEL_CHANGED = "model.changed"


@task(name="announce-changes", cache_policy=NO_CACHE)
def announce(config: Config, changes: Sequence[dict[str, Any]]) -> None:
    """Emit `model.changed` for each model; automations may listen to it."""
    for change in changes:
        emit_event(
            event=MODEL_CHANGED,
            resource={"prefect.resource.id": f"rescore.model.{change['name']}"},
            payload={**change, "against": config.comparison.against, "database": config.database},
        )
