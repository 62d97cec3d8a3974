"""May the run go live? The config's gates, and what a failed one does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.schema import Config
from reranking.errors import GateFailed
from reranking.runs.run import Run
from tasks import verdicts


@task(name="check-gates", cache_policy=NO_CACHE)
def check_gates(config: Config, plan: Run) -> dict[str, Any] | None:
    """The outcome of every condition of the config's gates; None where it has no gates."""
    found = verdicts.gate(config, plan)
    return None if found is None else found.to_dict()


def passed(gates: Mapping[str, Any] | None) -> bool:
    """Whether nothing speaks against going live."""
    return gates is None or bool(gates["passed"])


def refuse_failed(values: dict[str, Any]) -> dict[str, Any]:
    """`values` of a run; raises GateFailed, which carries them, where its gates failed."""
    gates = values["gates"]
    if passed(gates):
        return values
    raise GateFailed("a gate failed:\n  " + "\n  ".join(gates["reasons"]), values)
