"""A config's file and overrides: paths, odd YAML, what is no file."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from configs.load import ConfigFault, load_config, parse_config
from tests.support.loaded import SMALL, faults, load, small


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("search.limit=7", 7),
        ("search.query_types=[fts]", ("fts",)),
        ("search.where={year: {gte: 2020}}", {"year": {"gte": 2020}}),
        ("search.where={day: {gte: 2026-01-31}}", {"day": {"gte": "2026-01-31"}}),
        ("search.where.kind=[a, b]", {"kind": ["a", "b"]}),
        ("search.where.open=yes", {"open": True}),
        ("search.metric=", None),
    ],
)
def test_overrides_are_yaml(override: str, expected: object, tmp_path: Path) -> None:
    key = override.split("=")[0].split(".")[1]
    found = getattr(load(tmp_path, SMALL, override).search, key)
    assert found == expected
    assert type(found) is type(expected)


def test_the_last_override_wins_and_the_file_is_left_alone(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL, "search.limit=7", "search.limit=8").search.limit == 8
    assert (tmp_path / "config.yaml").read_text() == SMALL


# YAML -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (SMALL + "x: !!python/object/apply:os.system ['true']\n", "no tag|constructor for the tag"),
        (SMALL + "x: !!python/name:os.system\n", "constructor for the tag"),
        (SMALL + "x: !env SECRET\n", "constructor for the tag"),
        (SMALL + "database: other\n", "line 5, column 1: the key 'database' stands twice"),
        (SMALL + "search: {limit: 1, limit: 2}\n", "the key 'limit' stands twice"),
        (SMALL + "? [a, b]\n: 3\n", "unhashable key"),
        (SMALL + "1: 2\n", "Keys should be strings"),
        (SMALL + "---\n" + SMALL, "another document"),
        (SMALL + "search: [\n", "line 6, column 1"),
        (SMALL + "\x00", "special characters are not allowed"),
        (SMALL + "search: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        (SMALL + "search: &s {where: *s}\n", "operators are"),
        ((SMALL + "# é").encode("latin-1"), "not UTF-8 at byte"),
        (SMALL.encode("utf-16"), "not UTF-8 at byte 1"),
        ("", "expected keys and values, got NoneType"),
        ("- a", "expected keys and values, got list"),
        ("42", "expected keys and values, got int"),
    ],
)
def test_odd_yaml_is_said_in_a_line(text: str | bytes, reason: str, tmp_path: Path) -> None:
    message = faults(tmp_path, text)
    assert any(part in message for part in reason.split("|")), message
    assert str(tmp_path / "config.yaml") in message
    assert "Traceback" not in message


def test_a_byte_order_mark_and_crlf_are_no_fault(tmp_path: Path) -> None:
    plain = load(tmp_path, SMALL)
    assert load(tmp_path, b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode()) == plain


def test_merge_keys_may_be_overridden(tmp_path: Path) -> None:
    text = SMALL.replace(
        "queries: {query_set: q, source: {format: jsonl, path: q.jsonl}}",
        "queries: {query_set: q, source: &s {format: jsonl, path: q.jsonl}}\n"
        "judgments: {judgment_list: j, source: {<<: *s, path: j.jsonl}}",
    )
    config = load(tmp_path, text)
    assert config.judgments is not None
    assert config.judgments.source is not None
    assert config.judgments.source.path == str(tmp_path / "j.jsonl")


def test_a_small_file_of_a_billion_values_costs_nothing(tmp_path: Path) -> None:
    lines = ["a: &a [" + ",".join("x" * 9) + "]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]")
    bomb = "\n".join(lines) + "\n" + SMALL.replace("database: db", "database: *i")
    tracemalloc.start()
    try:
        message = faults(tmp_path, bomb + "search: {where: {x: *i}}\nresults: {columns: *i}\n")
        assert tracemalloc.get_traced_memory()[1] < 20e6  # bytes at the peak
    finally:
        tracemalloc.stop()
    assert len(message) < 5000
    assert "database: Input should be a valid string" in message


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    loop = tmp_path / "loop.yaml"
    loop.symlink_to(loop)
    for path, reason in {
        tmp_path / "none.yaml": "no such config file",
        tmp_path: "Is a directory",
        loop: "symbolic links",
        tmp_path / "nul\0.yaml": "null byte",
    }.items():
        with pytest.raises(ConfigFault, match=reason):
            load_config(path)


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("search", "--set search: expected a.b=value"),
        ("=3", "expected a.b=value"),
        ("search..limit=3", "expected a.b=value"),
        ("search.limit=[geheim", "--set search.limit: not valid YAML"),
        ("search.limit.x=3", "search.limit"),
        ("database.x=geheim", "database is not a section"),
        ("x=!!python/name:os.system", "constructor for the tag"),
        ("search={limit: 1, limit: 2}", "stands twice"),
        ("searhc.limit=3", "searhc: unknown key"),
    ],
)
def test_bad_overrides(override: str, reason: str, tmp_path: Path) -> None:
    message = faults(tmp_path, SMALL, override)
    assert reason in message
    assert "geheim" not in message


def test_long_values_are_cut_in_messages(tmp_path: Path) -> None:
    changed = small(search__metric="x" * 100_000)
    with pytest.raises(ConfigFault) as caught:
        parse_config(changed, tmp_path)
    assert len(str(caught.value)) < 1000
    assert json.dumps(changed)  # and the config given is left as it was
