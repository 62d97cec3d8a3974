"""Configs as text, loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.load import ConfigFault, load_config
from configs.schema import Config

SMALL = """
database: db
documents: {source: {format: jsonl, path: d.jsonl}}
queries: {query_set: q, source: {format: jsonl, path: q.jsonl}}
"""


def load(folder: Path, text: str | bytes, *overrides: str) -> Config:
    """The config with that text, in a file of the folder."""
    path = folder / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_config(path, overrides)


def faults(folder: Path, text: str | bytes, *overrides: str) -> str:
    """What is wrong with the config."""
    with pytest.raises(ConfigFault) as caught:
        load(folder, text, *overrides)
    return str(caught.value)


def small(**changes: Any) -> dict[str, Any]:
    """The small config as values; `a__b=value` changes a.b."""
    config = yaml.safe_load(SMALL)
    for key, value in changes.items():
        *parents, last = key.split("__")
        part = config
        for name in parents:
            part = part.setdefault(name, {})
        part[last] = value
    return config
