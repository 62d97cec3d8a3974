"""Look after the database: forget old runs, tidy scores, sweep leftovers, compact, prune."""

from __future__ import annotations

from typing import Any

from prefect import flow

from configs.deploy import FlowConfig
from tasks.maintain import maintain_database, show_maintenance


@flow(name="maintain", persist_result=False)
def maintain(config: FlowConfig, dry_run: bool = False) -> dict[str, Any]:
    """What maintenance did, or would do in a dry run."""
    report = maintain_database(config, dry_run)
    show_maintenance(report)
    return report
