"""What is chosen by timing is chosen once for a machine, whoever asks and however busy it is."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from reranking.scoring import machine  # noqa: E402
from reranking.scoring.cpu import choices  # noqa: E402
from reranking.scoring.cpu.choices import remembered_seconds  # noqa: E402

WAYS = ("plain", "packed")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RESCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choices, "_unstored", {})
    return tmp_path / "cache"


def never() -> list[float]:
    raise AssertionError("measured again")


def ask(seconds: list[float] | None = None, question: str = "linear") -> list[float]:
    return remembered_seconds(question, WAYS, never if seconds is None else lambda: seconds)


def test_the_first_measurement_is_the_answer_from_then_on(cache: Path) -> None:
    assert ask([2.0, 1.0]) == [2.0, 1.0]
    assert ask() == [2.0, 1.0]
    assert ask([3.0, 4.0], "attention") == [3.0, 4.0]
    records = [json.loads(p.read_text()) for p in (cache / "timings").iterdir()]
    answers = {record["key"]["question"]: record["answer"] for record in records}
    assert answers["linear"] == {"plain": 2.0, "packed": 1.0}
    assert len(records) == 2  # and no scratch files beside them
    assert {record["key"]["torch"] for record in records} == {torch.__version__}


@pytest.mark.parametrize("changed", ["processor", "torch"])
def test_another_processor_or_torch_is_measured_by_itself(
    monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    ask([2.0, 1.0])
    if changed == "torch":
        monkeypatch.setattr(torch, "__version__", "2.99.0")
    else:
        monkeypatch.setattr(choices, "processor", lambda: "another")
    assert ask([1.0, 2.0]) == [1.0, 2.0]
    monkeypatch.undo()


def test_the_process_that_stores_first_decides(cache: Path) -> None:
    """Another process stores its timings while this one is still measuring."""

    def slow() -> list[float]:
        ask([5.0, 6.0])
        return [6.0, 5.0]

    assert remembered_seconds("linear", WAYS, slow) == [5.0, 6.0]
    assert ask() == [5.0, 6.0]


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        '{"answer": {"plain": 1.0}}',
        '{"answer": {"plain": 9, "packed": 1}, "digest": "", "key": {}}',
        "\x00\xff",
    ],
)
def test_a_damaged_file_is_measured_again_and_replaced(
    cache: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    ask([2.0, 1.0])
    (stored,) = (cache / "timings").iterdir()
    stored.write_bytes(damage.encode("latin-1"))
    with caplog.at_level(logging.WARNING):
        assert ask([1.0, 2.0]) == [1.0, 2.0]
    assert f"{stored} is damaged" in caplog.text
    assert ask() == [1.0, 2.0]


def test_a_cache_that_cannot_be_written_is_replaced_by_the_process_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("RESCORE_CACHE", str(tmp_path / "file"))
    assert ask([2.0, 1.0]) == [2.0, 1.0]
    assert ask() == [2.0, 1.0]


def test_a_file_system_without_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(machine.os, "link", refused)
    assert ask([2.0, 1.0]) == [2.0, 1.0]
    assert ask() == [2.0, 1.0]


def test_what_cannot_be_measured_is_not_stored(cache: Path) -> None:
    def fails() -> list[float]:
        raise RuntimeError("no such kernel")

    with pytest.raises(RuntimeError, match="no such kernel"):
        remembered_seconds("linear", WAYS, fails)
    assert ask([1.0, 2.0]) == [1.0, 2.0]
