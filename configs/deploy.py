"""A config as a flow's parameter: whole, or a preset with overrides, as deployments give it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator

from configs.load import load_config
from configs.schema import Config


def resolve(value: Any) -> Any:
    """`{preset: FILE, set: {a.b: value}}` as the Config it means; anything else as it is.

    A preset's path is absolute in deployments: `rescore deploy CONFIG` writes it.
    Raises ConfigFault, and ValueError for keys beside `preset` and `set`.
    """
    if not isinstance(value, dict) or "preset" not in value:
        return value
    unknown = sorted(set(value) - {"preset", "set"})
    if unknown:
        raise ValueError(f"a preset takes `set` for overrides, not {unknown}")
    overrides = value.get("set") or {}
    return load_config(Path(value["preset"]), [f"{key}={_yaml(v)}" for key, v in overrides.items()])


def _yaml(value: Any) -> str:
    """The value in YAML's flow style, on one line."""
    import yaml

    return yaml.safe_dump(value, default_flow_style=True, width=10**9).removesuffix("...\n").strip()


FlowConfig = Annotated[Config, BeforeValidator(resolve)]
