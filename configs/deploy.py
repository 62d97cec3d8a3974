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
    Raises ConfigFault, and ValueError for anything else beside `preset`.
    """
    if not isinstance(value, dict) or "preset" not in value:
        return value
    preset, values = value["preset"], value.get("set") or {}
    if set(value) - {"preset", "set"}:
        raise ValueError("a preset takes `set` for overrides, and nothing else")
    if not isinstance(preset, str) or not isinstance(values, dict):
        raise ValueError("expected {preset: FILE, set: {a.b: value}}")
    return load_config(Path(preset), values=values)


FlowConfig = Annotated[Config, BeforeValidator(resolve)]
