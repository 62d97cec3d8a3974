"""What long work says: rates, time left, lines without a terminal."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from reranking import progress
from reranking.progress import Lines, Pace, Status, duration, shares_of, watch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands until it is told another time."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_time_left_is_that_of_the_work_not_of_the_units(clock: list[float]) -> None:
    """Longest first: a tenth of the pairs took half of the work, so as much again is left."""
    pace = Pace("pairs")
    pace.mark(Status("score", 0, 100, 0.0))
    clock[0] += 60
    half = Status("score", 10, 100, 0.5)
    pace.mark(half)
    assert pace.left(half) == "1 min 00 s left"
    assert pace.left(replace(half, share=None)) == "9 min 00 s left"
    assert pace.left(Status("score", 100, 100, 1.0)) == ""
    assert pace.text(half) == "score: 10 of 100 pairs, 0.17 pairs/s, 1 min 00 s left"
    assert pace.text(replace(half, note="2 workers")).endswith("left, 2 workers")


def test_loading_before_the_first_piece_is_no_time_of_the_stage(clock: list[float]) -> None:
    pace = Pace("pairs")
    clock[0] += 500  # a model loads
    pace.mark(Status("score", 0))
    clock[0] += 10
    pace.mark(Status("score", 1000))
    assert pace.rate(Status("score", 1000)) == "100 pairs/s"


def test_shares_count_what_a_model_reads() -> None:
    shares = shares_of(["x" * 10_000_000, "y" * 5000, "z"])
    assert shares[0] == pytest.approx(shares[1] - shares[0])  # both are cut
    assert shares == sorted(shares) and shares[-1] == 1
    assert shares_of([]) == []


def test_without_a_terminal_there_is_a_line_each_half_minute_and_one_at_the_end(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "reranking.progress"), Lines("pairs") as lines:
        for done in range(71):
            lines(Status("score", done, 70))
            clock[0] += 1
    assert caplog.messages == [
        "score: 30 of 70 pairs, 1 pairs/s, 40 s left",
        "score: 60 of 70 pairs, 1 pairs/s, 10 s left",
        "score: 70 pairs in 1 min 10 s, 1 pairs/s",
    ]


def test_nothing_is_shown_if_only_errors_are_wanted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, "reranking.progress"), watch("pairs") as shown:
        assert shown is progress.silent
