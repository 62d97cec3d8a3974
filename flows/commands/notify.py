"""Have somebody told when a deployed run fails: an automation, and a block that says where to."""

from __future__ import annotations

import re
from typing import Any

from flows.commands.schedules import TAG
from reranking.errors import ConfigError, MissingResource


def automation_name(name: str) -> str:
    """Return the name of the automation that tells of the failed runs of a config."""
    return f"rescore: {name} failed"


def notify(name: str, target: str) -> str:
    """Have failed and crashed runs of the config told to a URL, or by a block `type/name`.

    A URL gets a JSON object with the key `text`, as Slack, Mattermost and others take it. It is
    kept on the server alone, in a block. Returns the automation's name.
    """
    from prefect.automations import Automation
    from prefect.client.orchestration import get_client
    from prefect.events import EventTrigger, Posture
    from prefect.events.actions import SendNotification
    from prefect.events.schemas.events import ResourceSpecification

    block = _webhook(name, target) if "://" in target else _stored_block(target)
    automation = Automation(
        name=automation_name(name),
        description="Made by `rescore deploy --notify`.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification(
                {
                    "prefect.resource.id": [f"prefect.tag.{TAG}:{name}"],
                    "prefect.resource.role": "tag",
                }
            ),
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            SendNotification(
                block_document_id=block,
                subject="{{ flow_run.name }} ended as {{ flow_run.state.name }}",
                body="{{ flow_run.state.message }}",
            )
        ],
    )
    with get_client(sync_client=True) as client:
        for old in client.read_automations_by_name(automation.name):
            client.delete_automation(old.id)
    automation.create()
    return automation.name


def no_longer(name: str) -> None:
    """Remove the automation of a config, and the block of its URL."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        for old in client.read_automations_by_name(automation_name(name)):
            client.delete_automation(old.id)
        try:
            block = client.read_block_document_by_name(_slug(name), "custom-webhook")
        except ObjectNotFound:
            return
        client.delete_block_document(block.id)


def _webhook(name: str, url: str) -> Any:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    if not url.startswith(("https://", "http://")):
        raise ConfigError(
            f"--notify {url.partition('://')[0]}://...: expected an https:// or http:// URL, or a "
            "notification block as `slack-webhook/alerts`"
        )
    block = CustomWebhookNotificationBlock(
        name=_slug(name), url=url, json_data={"text": "{{subject}}\n{{body}}"}
    )
    return block.save(_slug(name), overwrite=True)


def _stored_block(target: str) -> Any:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    kind, _, block = target.partition("/")
    if not kind or not block:
        raise ConfigError(
            f"--notify {target!r}: expected a URL, or a notification block as slack-webhook/alerts"
        )
    with get_client(sync_client=True) as client:
        try:
            return client.read_block_document_by_name(block, kind).id
        except ObjectNotFound:
            raise MissingResource(
                f"--notify {target}: the server has no such block; `prefect block ls` lists them"
            ) from None


def _slug(name: str) -> str:
    return "rescore-" + re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
