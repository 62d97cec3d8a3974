"""Configs from strangers: what a message may say, and what a small file may cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from configs.deploy import resolve
from configs.load import ConfigFault, load_config
from configs.schema import Config, Execution
from configs.source import Source, database_place, masked

SMALL = """database: db
documents: {source: {format: jsonl, path: d.jsonl}}
queries: {query_set: q}
"""
# Files that are no configs, and what of them no message may hold.
FOREIGN = [
    "root: x:0:0:root:/root:/bin/bash\n",
    "geheim: 1\ndatabase: db\n",
    "database: db\nqueries:\n  geheim: {a: 1}\n",
    "database: db\nsearch: {where: {geheim: null}, geheim: 3}\n",
    "geheim: 1\ngeheim: 2\n",
    "12345678: geheim\n",
    "? [geheim]\n: 1\n",
    "a: *geheim\n",
    "a: !geheim 1\n",
    "a: !!int geheim\n",
    "a: !!timestamp geheim\n",
    "a: &geheim 1\nb: 'geheim\n",
    "%geheim\n",
    "geheim",
    "machine geheim.example login geheim password geheim",
    "[geheim]\nkey = geheim\n",
]


@pytest.mark.parametrize("text", FOREIGN, ids=ascii)
def test_nothing_of_a_file_that_is_no_config_is_quoted(text: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    for load in (load_config, lambda p: resolve({"preset": str(p)})):
        with pytest.raises(ConfigFault) as raised:
            load(path)
        told = str(raised.value)
        assert "root" not in told.replace(str(tmp_path), "") or "geheim" in text
        assert not {"geheim", "12345678", "/bin/bash"} & set(told.replace("'", " ").split())
        assert "geheim" not in told.replace("where: geheim: expected", "")


def test_a_key_given_on_the_command_line_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(SMALL)
    with pytest.raises(ConfigFault, match="serach.limit: unknown key|serach: unknown key"):
        load_config(tmp_path / "c.yaml", ["serach.limit=1"])


def merges(depth: int) -> str:
    lines = ["a0: &a0 {k0: 1, k1: 1, k2: 1, k3: 1, k4: 1, k5: 1, k6: 1, k7: 1, k8: 1}"]
    for n in range(1, depth):
        lines.append(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}")
    return "\n".join(lines)


def test_merges_of_merges_are_refused_by_a_limit_that_is_told(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(merges(60))  # nine deep were four minutes
    with pytest.raises(ConfigFault, match="merges .* more than 10,000 keys"):
        load_config(tmp_path / "c.yaml")


def test_a_merge_is_still_a_merge(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        SMALL.replace("queries: {", "queries: {<<: {query_set: other}, ")
    )
    assert load_config(tmp_path / "c.yaml").queries.query_set == "q"


@pytest.mark.parametrize(
    "value",
    ["0x" + "f" * 100_000, "9" * 5_000, "2026-13-45", "!!int ''", "!!bool geheim", "!!binary '='"],
    ids=lambda v: v[:12],
)
@pytest.mark.parametrize("key", ["search.limit", "search.where", "nonsense"])
def test_odd_numbers_and_tags_are_faults_of_the_config(
    value: str, key: str, tmp_path: Path
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(SMALL)
    with pytest.raises(ConfigFault) as raised:
        load_config(path, [f"{key}={value}"])
    assert len(str(raised.value)) < 1000
    section, _, last = key.partition(".")
    path.write_text(SMALL + f"{section}: {{{last or 'a'}: {value}}}\n")
    with pytest.raises(ConfigFault):
        load_config(path)


@pytest.mark.parametrize("given", [[1], "a=1", 3, {"a": {1: 2}}])
def test_odd_overrides_of_a_preset_are_refused(given: Any, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(SMALL)
    with pytest.raises((ValueError, ConfigFault)):
        resolve({"preset": str(tmp_path / "c.yaml"), "set": given})
    with pytest.raises((ValueError, ConfigFault)):
        resolve({"preset": given})


@pytest.mark.parametrize(
    "path", ["s3://b/p@1", "gs://bucket/a b", "az://datasets/a/b@rev/c", "//srv/a@b"]
)
def test_an_at_in_a_path_is_no_user(path: str) -> None:
    assert (
        Config.model_validate(
            {"database": path, "documents": {}, "queries": {"query_set": "q"}}
        ).database
        == path
    )
    assert masked(path) == path


def test_credentials_pass_nowhere() -> None:
    for address in ("tcp://u:geheim@host:1", "u:geheim@host:1", " tcp://u:geheim@host"):
        with pytest.raises(ValidationError):
            Execution(runner="dask", address=address)
    with pytest.raises(ValidationError):
        Source(format="ir-datasets", name="https://u:geheim@host/x")
    for place in ("//KEY:geheim@bucket/x", "  //u:geh/eim@host", "\\\\u:geheim@host\\share"):
        with pytest.raises(ValueError, match="must not hold a user"):
            database_place(place)


@pytest.mark.parametrize(
    "text",
    [
        "no database at s3://KEY:geheim/RET@bucket/x: expected",
        "'https://u:gehe@im/@host/p' is none",
        "s3:/u:geheim@host",
        "s3:\\\\u:geheim@host",
        "https://host/p?token=geheim and more",
        "https://host/p#geheim",
        "no database at //KEY:geheim@bucket/x: expected",
    ],
)
def test_messages_are_masked(text: str) -> None:
    shown = masked(text)
    assert "geheim" not in shown and "im/" not in shown and "***" in shown
