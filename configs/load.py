"""From a YAML file and `--set` overrides to a Config; all faults in one message."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from configs.part import Part
from configs.schema import OPERATORS, Config
from configs.source import masked

PRESETS = Path(__file__).parent
_URI = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]+://")
_MOST_KEYS = 10_000
_QUOTED = re.compile(r"'[^'<][^']*'|\"[^\"<][^\"]*\"")
_MOST_BITS = 256


class ConfigFault(Exception):
    """Every fault of a config, one per line."""


class _Loader(yaml.SafeLoader):
    """Plain values only (no tags that build objects), and each key of a section once."""

    merged = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Take in what `<<` names; merges of merges can make a huge section of a small file."""
        super().flatten_mapping(node)
        self.merged += len(node.value)
        if self.merged > _MOST_KEYS:
            raise yaml.constructor.ConstructorError(
                None, None, f"merges (<<) that give more than {_MOST_KEYS:,} keys", node.start_mark
            )

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The section; YAML itself would let the last of several equal keys win."""
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                name = f"the key {key!r}" if key in _known_keys() else "a key"
                raise yaml.constructor.ConstructorError(
                    None, None, f"{name} stands twice", key_node.start_mark
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


def load_config(
    path: Path, overrides: Sequence[str] = (), values: Mapping[str, Any] | None = None
) -> Config:
    """Return the validated Config in the file.

    `overrides` are `a.b=value`, values in YAML; `values` gives them as they are, by `a.b`.
    Paths are taken relative to the config file. Raises ConfigFault naming every fault at once.
    """
    data, node = _read(path)
    for item in overrides:
        _override(data, item)
    for key, value in (values or {}).items():
        _set(data, key, value)
    return parse_config(data, path.parent.resolve(), str(path), node)


def parse_config(
    data: dict[str, Any], base: Path, origin: str = "config", node: yaml.Node | None = None
) -> Config:
    """Return the validated Config in `data`, its paths taken relative to `base`.

    A message says where a fault is, by the lines of the YAML `node`, and quotes no key that is not
    a config's: the file may be somebody's, and no config at all.
    """
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        faults = "\n".join(f"  {_fault(dict(e), node)}" for e in error.errors())
        count = error.error_count()
        raise ConfigFault(f"{origin}: {count} fault{'s' * (count > 1)}\n{faults}") from None
    return _absolute(config, base)


def _read(path: Path) -> tuple[dict[str, Any], yaml.Node | None]:
    """The file's keys and values, and the nodes that know their lines."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        data = _parse(text)
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
    return data, yaml.compose(text, Loader=_Loader)


def _parse(text: str) -> Any:
    """The YAML document's value; raises ValueError that says where and what, quoting nothing."""
    try:
        return _Loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = "" if mark is None else f" in line {mark.line + 1}, column {mark.column + 1}"
        problem = str(error.problem)
        if not problem.startswith("the key "):  # a known one; other quotations are the file's text
            problem = _QUOTED.sub("...", problem)
        raise ValueError(f"not valid YAML{at}: {problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise ValueError("not valid YAML: nested too deeply") from None
    except (ValueError, LookupError, ArithmeticError, AttributeError, TypeError):
        raise ValueError(  # !!int "x", a date of month 13, a number of 5,000 digits
            "not valid YAML: a value is not what its tag or its form says, or is too large"
        ) from None


def _override(data: dict[str, Any], item: str) -> None:
    key, separator, text = item.partition("=")
    if not separator or not all(key.split(".")):
        raise ConfigFault(f"--set {key}: expected a.b=value")
    try:
        value = _parse(text)
    except ValueError as error:
        raise ConfigFault(f"--set {key}: {error}") from None
    _set(data, key, value)


def _set(data: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = _steps(key)
    for name in parents:
        inner = data.get(name)
        if inner is None:
            inner = data[name] = {}
        if not isinstance(inner, dict):
            raise ConfigFault(f"--set {key}: {name} is not a section")
        data = inner
    data[last] = value


def _steps(key: str) -> list[str]:
    """The keys that an override leads through; behind `search.where` a field's whole path is one.

    `search.where.meta.lang.gte` is the operator gte of the field `meta.lang`.
    """
    names = key.split(".")
    if names[:2] != ["search", "where"] or len(names) < 4:
        return names
    end = len(names) - (names[-1] in OPERATORS)
    return [*names[:2], ".".join(names[2:end]), *names[end:]]


def _where(location: tuple[int | str, ...]) -> str:
    """The place in dots, up to the first part that is no key of a config and names no query set."""
    before = (None, *location)
    known = takewhile(lambda step: _may_be_shown(*step), zip(before, location, strict=False))
    return ".".join(str(part) for _, part in known) or "config"


def _may_be_shown(before: int | str | None, part: int | str) -> bool:
    named = before == "sets" and isinstance(part, str) and re.fullmatch(r"[\w.-]{1,128}", part)
    return isinstance(part, int) or part in _known_keys() or bool(named)


@cache
def _known_keys() -> frozenset[str]:
    """The keys that some part of a config has."""
    parts, names = [Part], set[str]()
    while parts:
        part = parts.pop()
        names |= set(part.model_fields)
        parts += part.__subclasses__()
    return frozenset(names)


def _line(node: yaml.Node | None, location: tuple[int | str, ...]) -> str:
    """` in line N` of the key that the location ends in, as far as the file has it."""
    line = None
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pairs = [(k, v) for k, v in node.value if getattr(k, "value", None) == str(part)]
            if not pairs:
                return ""
            line, node = pairs[-1][0].start_mark.line, pairs[-1][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            if part >= len(node.value):
                return ""
            node = node.value[part]
            line = node.start_mark.line
    return "" if line is None else f" in line {line + 1}"


def _fault(error: dict[str, Any], node: yaml.Node | None) -> str:
    location = error["loc"]
    if error["type"] not in ("extra_forbidden", "invalid_key"):
        return f"{_where(location)}: {_what(error)}"
    what = "unknown key" if error["type"] == "extra_forbidden" else "Keys should be strings"
    near = get_close_matches(str(location[-1]), _known_keys(), 1, 0.75)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    if line := _line(node, location):
        return f"{_where(location[:-1])}: {what}{line}{hint}"
    place = ".".join(_short(part).strip("'") for part in location)  # given by --set or a program
    return f"{place}: {what}{hint}"


def _what(error: dict[str, Any]) -> str:
    if error["type"] == "value_error":  # our own messages show what may be shown
        return str(error["msg"]).removeprefix("Value error, ")
    message = str(error["msg"])
    if error["type"] == "string_pattern_mismatch":
        message = "a name has letters, digits and _ . - only (no . or - first), at most 128"
    given = error.get("input")
    said = "" if isinstance(given, dict | BaseModel) else f" (given: {masked(_short(given))})"
    return message + said


def _short(value: object) -> str:
    """The value as Python writes it, cut: aliases can make a huge value of a small file."""
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:  # Python refuses to write it
        return f"a number of {value.bit_length():,} bits"
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
    _databases(data, local)
    sets = data["queries"]["sets"].values()
    sections = [data[name] for name in ("documents", "queries", "candidates", "judgments")]
    for section in [*sections, *sets, *(one["judgments"] for one in sets)]:
        source = (section or {}).get("source")
        if source and source["path"]:
            source["path"] = source["path"] if source["path"] == "-" else local(source["path"])
    if data["results"]["report"]:
        data["results"]["report"] = str(base / Path(data["results"]["report"]).expanduser())
    if data["results"]["metrics"]:
        data["results"]["metrics"] = str(base / Path(data["results"]["metrics"]).expanduser())
    if data["documents"]["encoder"]:
        data["documents"]["encoder"]["model"] = model(data["documents"]["encoder"]["model"])
    if data["rerank"]:
        data["rerank"]["model_name"] = model(data["rerank"]["model_name"])
    if data["labels"] and data["labels"]["other_model"]:
        data["labels"]["other_model"] = model(data["labels"]["other_model"])
    return Config.model_validate(data)


def _databases(data: dict[str, Any], local: Callable[[str], str]) -> None:
    """Make the places of all databases absolute."""
    for part in (data, data["documents"], data["results"]["publish"]):
        if isinstance(part, dict) and part["database"]:
            part["database"] = local(part["database"])
