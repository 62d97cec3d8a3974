"""From a YAML file and `--set` overrides to a Config; all faults in one message."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from configs.schema import Config

PRESETS = Path(__file__).parent
_URI = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+:")


class ConfigFault(Exception):
    """Every fault of a config, one per line."""


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """The validated Config in the file, with `a.b=value` overrides (values are YAML).

    Paths are taken relative to the config file. Raises ConfigFault naming every fault at once.
    """
    data = _read(path)
    for item in overrides:
        _override(data, item)
    return parse_config(data, path.parent.resolve(), str(path))


def parse_config(data: dict[str, Any], base: Path, origin: str = "config") -> Config:
    """The validated Config in `data`, its paths taken relative to `base`."""
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        faults = "\n".join(f"  {_where(e['loc'])}: {_what(dict(e))}" for e in error.errors())
        count = error.error_count()
        raise ConfigFault(f"{origin}: {count} fault{'s' * (count > 1)}\n{faults}") from None
    return _absolute(config, base)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigFault(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigFault(f"{path}: cannot be read as a config: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigFault(f"{path}: not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise ConfigFault(f"{path}: expected keys and values, got {type(data).__name__}")
    return data


def _override(data: dict[str, Any], item: str) -> None:
    key, separator, text = item.partition("=")
    if not separator or not key:
        raise ConfigFault(f"--set {item}: expected a.b=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigFault(f"--set {item}: the value is not valid YAML: {error}") from None
    *parents, last = key.split(".")
    for name in parents:
        inner = data.get(name)
        if inner is None:
            inner = data[name] = {}
        if not isinstance(inner, dict):
            raise ConfigFault(f"--set {item}: {name} is not a section")
        data = inner
    data[last] = value


def _where(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "config"


def _what(error: dict[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown key"
    message = str(error["msg"]).removeprefix("Value error, ")
    given = error.get("input")
    shown = "" if isinstance(given, dict | BaseModel) else f" (given: {given!r})"
    return message + (shown if len(shown) < 120 else "")


def _absolute(config: Config, base: Path) -> Config:
    """The same config with every local path made absolute; URIs and hub ids stay as they are."""

    def local(value: str) -> str:
        return value if _URI.match(value) else str((base / value).expanduser())

    def model(value: str) -> str:
        folder = (base / value).expanduser()
        return str(folder) if not _URI.match(value) and folder.is_dir() else value

    data = config.model_dump()
    data["database"] = local(data["database"])
    for section in ("documents", "queries", "judgments"):
        source = (data[section] or {}).get("source")
        if source and source["path"]:
            source["path"] = local(source["path"])
    if data["documents"]["encoder"]:
        data["documents"]["encoder"]["model"] = model(data["documents"]["encoder"]["model"])
    if data["rerank"]:
        data["rerank"]["model_name"] = model(data["rerank"]["model_name"])
    return Config.model_validate(data)
