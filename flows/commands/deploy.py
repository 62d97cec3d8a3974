"""Register the flows of prefect.yaml on a server: work pool, deployments, the watch on hosts."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.console import Answer, command, echo, line, read_config
from flows.commands.notify import no_longer
from flows.commands.notify import notify as tell_failures
from flows.commands.options import NamedConfig
from flows.commands.schedules import TAG, deployments_for, name_of
from flows.commands.server import configured, prepare
from reranking.errors import MissingPrerequisite, RuntimeFailure

if TYPE_CHECKING:
    from configs.schema import Config

ROOT = Path(__file__).parents[2]
POOL = "rescore"
DEAD_HOSTS = "rescore: flow runs without a heartbeat"
_SAID = {"match": True, "for_each": True, "posture": True, "threshold": True, "within": True}
_ENDED = ("Completed", "Failed", "Cancelled", "Crashed")


@command
def deploy(
    config: NamedConfig,
    remove: Annotated[
        bool, typer.Option("--remove", help="take the config's deployments off the server")
    ] = False,
    notify: Annotated[
        str | None,
        typer.Option("--notify", metavar="URL|BLOCK", help="who is told of failed runs"),
    ] = None,
) -> Answer:
    """Register the scheduled flows for a config on the configured Prefect server."""
    settings = read_config(config, None)
    name = name_of(settings, config)
    _need_server()
    if remove:
        removed = _remove(name)
        no_longer(name)
        return Answer({"name": name, "removed": removed}, line(f"removed: {', '.join(removed)}"))
    values: dict[str, Any] = {"notifies": None if notify is None else tell_failures(name, notify)}
    return Answer(values | register(settings, config), _show)


def _show(values: dict[str, Any]) -> None:
    from flows.commands.tables import add_row, new_table, show

    columns = ["deployment", "next run"]
    table = new_table(f"Deployments of {values['name']}", columns)
    for row in values["deployments"]:
        add_row(table, row["deployment"], row["next_run"] or "not scheduled")
    show(table)
    if values["notifies"]:
        echo(f"failed and crashed runs are told by the automation {values['notifies']!r}")
    echo(
        f"registered from {values['root']}; start a worker with "
        f"`prefect worker start --pool {values['work_pool']}`"
    )


def _need_server() -> None:
    server = configured()
    if server is None:
        raise MissingPrerequisite(
            "no server is named: set PREFECT_API_URL, e.g. http://127.0.0.1:4200/api after "
            "`prefect server start`"
        )
    prepare(server)


def register(settings: Config, file: Path) -> dict[str, Any]:
    """Make the pool, the config's deployments and the automation; what was made.

    Raises MissingPrerequisite if prefect.yaml does not exist.
    """
    if not (ROOT / "prefect.yaml").is_file():
        raise MissingPrerequisite(
            f"no prefect.yaml in {ROOT}: deploy from a checkout, installed with `pip install -e`"
        )
    made = _make_pool()
    _register(settings, file)
    name = name_of(settings, file)
    return {
        "name": name,
        "work_pool": POOL,
        "pool_made": made,
        "automation": _watch_hosts(),
        "deployments": _deployed(settings, file),
        "root": str(ROOT),
    }


def _deployed(settings: Config, file: Path) -> list[dict[str, Any]]:
    """The config's deployments with the time of their next run, from the schedule's cron."""
    import asyncio

    from prefect.server.schemas.schedules import CronSchedule

    rows = []
    for deployment in deployments_for(settings, file, ROOT / "prefect.yaml")["deployments"]:
        flow = Path(deployment["entrypoint"].partition(":")[0]).stem
        schedules = deployment.get("schedules", [])
        times = [CronSchedule(cron=c["cron"], timezone=c["timezone"]) for c in schedules]
        following = [day for t in times for day in asyncio.run(t.get_dates(n=1))]
        rows.append(
            {
                "deployment": f"{flow}/{deployment['name']}",
                "next_run": min(following).isoformat() if following else None,
            }
        )
    return rows


def _remove(name: str) -> list[str]:
    """Delete the deployments that are tagged with the config's name; their names."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags

    tagged = DeploymentFilter(tags=DeploymentFilterTags(all_=[f"{TAG}:{name}"]))
    with get_client(sync_client=True) as client:
        stale = client.read_deployments(deployment_filter=tagged)
        for deployment in stale:
            client.delete_deployment(deployment.id)
    return sorted(str(deployment.name) for deployment in stale)


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


def _register(settings: Config, file: Path) -> None:
    import yaml

    content = deployments_for(settings, file, ROOT / "prefect.yaml")
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "prefect.yaml"
        written.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
        done = subprocess.run(  # noqa: S603 - Prefect, with a path of our own
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"]
            + ["--prefect-file", str(written)],
            cwd=ROOT,
            env=os.environ | {"RESCORE_HOME": str(ROOT)},
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
    from prefect.settings import get_current_settings

    from reranking.fingerprints import canonical, fingerprint

    frequency = get_current_settings().flows.heartbeat_frequency
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
            within=timedelta(seconds=3 * (frequency or 180)),  # 180 s: Prefect's own default
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message="No heartbeat: its host died. Start it again: it continues its work.",
            )
        ],
    )
    said = automation.model_dump(mode="json", include={"trigger": _SAID, "actions": True})
    digest = fingerprint(canonical(said))[:8]
    automation.description = f"Made by `rescore deploy` ({digest})."
    with get_client(sync_client=True) as client:
        known = client.read_automations_by_name(DEAD_HOSTS)
        # One that is made anew would forget the runs that it is watching.
        if [old.description for old in known] == [automation.description]:
            return DEAD_HOSTS
        for old in known:
            client.delete_automation(old.id)
    automation.create()
    return DEAD_HOSTS
