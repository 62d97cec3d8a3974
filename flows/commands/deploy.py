"""Register the flows of prefect.yaml on a server: work pool, deployments, the watch on hosts."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from flows.commands.console import Answer, ConfigFile, command, line, read_config
from flows.commands.server import configured, prepare
from reranking.errors import MissingPrerequisite, RuntimeFailure

ROOT = Path(__file__).parents[2]
POOL = "rescore"
DEAD_HOSTS = "rescore: flow runs without a heartbeat"
_HEARTBEAT = timedelta(seconds=180)  # Prefect's own default
_ENDED = ("Completed", "Failed", "Cancelled", "Crashed")


@command
def deploy(config: ConfigFile) -> Answer:
    """Register the scheduled flows for a config on the configured Prefect server."""
    read_config(config, None)
    values = register(config)
    text = (
        f"registered from {values['root']}; start a worker with "
        f"`prefect worker start --pool {values['work_pool']}`"
    )
    return Answer(values, line(text))


def register(config: Path) -> dict[str, Any]:
    """Make the pool, the deployments for `config` and the automation; what was made.

    Raises MissingPrerequisite where no server is named or prefect.yaml is not there.
    """
    server = configured()
    if server is None:
        raise MissingPrerequisite(
            "no server is named: set PREFECT_API_URL, e.g. http://127.0.0.1:4200/api after "
            "`prefect server start`"
        )
    prepare(server)
    if not (ROOT / "prefect.yaml").is_file():
        raise MissingPrerequisite(
            f"no prefect.yaml in {ROOT}: deploy from a checkout, installed with `pip install -e`"
        )
    made = _make_pool()
    _register(config)
    return {"work_pool": POOL, "pool_made": made, "automation": _watch_hosts(), "root": str(ROOT)}


def _make_pool() -> bool:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    with get_client(sync_client=True) as client:
        try:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        except ObjectAlreadyExists:
            return False
    return True


def _register(config: Path) -> None:
    environment = os.environ | {"RESCORE_HOME": str(ROOT), "RESCORE_CONFIG": str(config.resolve())}
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise RuntimeFailure(f"the deployments were not registered:\n{last}")


def _watch_hosts() -> str:
    """A run whose host died sends no heartbeat any more: mark it as crashed, once.

    Without this it would stay Running for good, and hold its place in the concurrency limit.
    """
    from prefect.automations import Automation
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.events import EventTrigger, Posture
    from prefect.events.actions import ChangeFlowRunState

    automation = Automation(
        name=DEAD_HOSTS,
        description="Made by `rescore deploy`.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *(f"prefect.flow-run.{e}" for e in _ENDED)},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,  # it fires if fewer were seen: 0 could never fire
            within=3 * _HEARTBEAT,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message="No heartbeat: its host died. Start it again: it continues its work.",
            )
        ],
    )
    with get_client(sync_client=True) as client:
        for old in client.read_automations_by_name(DEAD_HOSTS):
            client.delete_automation(old.id)
    automation.create()
    return DEAD_HOSTS
