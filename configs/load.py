"""From a YAML file and `--set` overrides to a Config; all faults in one message."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from configs.schema import Config

PRESETS = Path(__file__).parent
_URI = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")


class ConfigFault(Exception):
    """Every fault of a config, one per line."""


class _Loader(yaml.SafeLoader):
    """Plain values only (no tags that build objects), and each key of a section once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The section; YAML itself would let the last of several equal keys win."""
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", key_node.start_mark
                )
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)


# Without `on` and `off`, which YAML 1.1 reads as booleans and 1.2 does not: `on` is a key here.
_BOOL = "tag:yaml.org,2002:bool"
_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_WORDS = "|".join(f"{w}|{w.title()}|{w.upper()}" for w in ("true", "false", "yes", "no"))
_Loader.add_implicit_resolver(_BOOL, re.compile(f"^(?:{_WORDS})$"), list("tTfFyYnN"))


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
        data = _parse(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigFault(f"{path}: no such config file") from None
    except UnicodeDecodeError as error:
        raise ConfigFault(f"{path}: not UTF-8 at byte {error.start + 1}") from None
    except OSError as error:
        raise ConfigFault(f"{path}: cannot be read as a config: {error.strerror}") from None
    except ValueError as error:  # a NUL in the path, and what _parse says
        raise ConfigFault(f"{str(path)!r}: {error}") from None
    if not isinstance(data, dict):
        raise ConfigFault(f"{path}: expected keys and values, got {type(data).__name__}")
    return data


def _parse(text: str) -> Any:
    """The YAML document's value; raises ValueError that says where and what, quoting nothing."""
    try:
        return _Loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = "" if mark is None else f" in line {mark.line + 1}, column {mark.column + 1}"
        raise ValueError(f"not valid YAML{at}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise ValueError("not valid YAML: nested too deeply") from None


def _override(data: dict[str, Any], item: str) -> None:
    key, separator, text = item.partition("=")
    *parents, last = key.split(".")
    if not separator or not all([*parents, last]):
        raise ConfigFault(f"--set {key}: expected a.b=value")
    try:
        value = _parse(text)
    except ValueError as error:
        raise ConfigFault(f"--set {key}: {error}") from None
    for name in parents:
        inner = data.get(name)
        if inner is None:
            inner = data[name] = {}
        if not isinstance(inner, dict):
            raise ConfigFault(f"--set {key}: {name} is not a section")
        data = inner
    data[last] = value


def _where(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "config"


def _what(error: dict[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return "unknown key"
    if error["type"] == "value_error":  # our own messages show what may be shown
        return str(error["msg"]).removeprefix("Value error, ")
    message = str(error["msg"])
    if error["type"] == "string_pattern_mismatch":
        message = "a name has letters, digits and _ . - only (no . or - first), at most 128"
    given = error.get("input")
    return message + ("" if isinstance(given, dict | BaseModel) else f" (given: {_short(given)})")


def _short(value: object) -> str:
    """The value as Python writes it, cut: aliases can make a huge value of a small file."""
    cut = reprlib.Repr()
    cut.maxstring, cut.maxlevel = 100, 2
    return cut.repr(value)


def _absolute(config: Config, base: Path) -> Config:
    """The same config with every local path made absolute; URIs and hub ids stay as they are."""

    def local(value: str) -> str:
        return value if _URI.match(value) else str(base / Path(value).expanduser())

    def model(value: str) -> str:
        folder = base / Path(value).expanduser()
        return str(folder) if not value.startswith("builtin:") and folder.is_dir() else value

    data = config.model_dump()
    data["database"] = local(data["database"])
    for section in ("documents", "queries", "candidates", "judgments"):
        source = (data[section] or {}).get("source")
        if source and source["path"]:
            source["path"] = local(source["path"])
    if data["results"]["report"]:
        data["results"]["report"] = str(base / Path(data["results"]["report"]).expanduser())
    if data["documents"]["encoder"]:
        data["documents"]["encoder"]["model"] = model(data["documents"]["encoder"]["model"])
    if data["rerank"]:
        data["rerank"]["model_name"] = model(data["rerank"]["model_name"])
    if data["labels"] and data["labels"]["other_model"]:
        data["labels"]["other_model"] = model(data["labels"]["other_model"])
    return Config.model_validate(data)
