"""The deployments of one config: named after it, tagged with it, on its own schedule."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from configs.schema import Config


TAG = "rescore-config"


def name_of(config: Config, file: Path) -> str:
    """Return the config's name: what it says itself, else its file's name without the ending."""
    return config.name or file.stem


def deployments_for(config: Config, file: Path, template: Path) -> dict[str, Any]:
    """Make the content of a prefect.yaml for the config from the project's own.

    A deployment `nightly` of the flow `rescore` becomes `nightly-NAME`, so that several configs
    stand beside each other on one server and one pool.
    """
    import yaml

    content: dict[str, Any] = yaml.safe_load(template.read_text("utf-8"))
    name = name_of(config, file)
    for deployment in content["deployments"]:
        flow = Path(deployment["entrypoint"].partition(":")[0]).stem
        deployment["name"] = f"{deployment['name']}-{name}"
        deployment["tags"] = [*deployment["tags"], f"{TAG}:{name}"]
        deployment["parameters"] = {"config": {"preset": str(file.resolve()), "set": {}}}
        cron = getattr(config.schedule, flow, None)
        deployment.pop("schedules", None)
        if cron is not None:
            zone = config.schedule.timezone
            deployment["schedules"] = [{"cron": cron, "timezone": zone, "slug": flow}]
    return content
