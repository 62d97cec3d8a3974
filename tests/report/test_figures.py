"""The report's figures, pictures and numbers, one by one."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from reranking.evaluation.statistics import compare_paired
from reranking.report import charts, words
from reranking.report.figures import distributions, slice_rows
from reranking.report.page import TEMPLATES
from reranking.report.svg import Scale, element, ticks


def luminance(color: str) -> float:
    """Relative luminance by WCAG 2.2."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def contrast(one: str, two: str) -> float:
    light, dark = sorted((luminance(one), luminance(two)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_colours_have_contrast_in_light_and_dark() -> None:
    style = (TEMPLATES / "report.css").read_text("utf-8")
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    themes = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block)) for block in blocks]
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for colors in themes:
        for text in ("ink", "muted", "better", "worse", "accent"):
            for behind in ("paper", "panel"):
                assert contrast(colors[text], colors[behind]) >= 4.5, (text, behind)
        for kind in ("better", "worse"):
            assert contrast(colors[kind], colors[f"{kind}-soft"]) >= 4.5
        for graphic in ("even", "better", "worse", "accent", "g0"):
            assert contrast(colors[graphic], colors["paper"]) >= 3


def test_histograms_are_numpys() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=500).astype(np.float32)
    grades = rng.choice([None, -1, 0, 1, 3], 500)
    pairs = pl.DataFrame(
        {
            "score": scores,
            "vector_rank": [1] * 500,
            "fts_rank": [None] * 500,
            "relevance": pl.Series(grades.tolist(), dtype=pl.Int32),
        }
    )
    vector, fts = distributions(pairs, ["vector", "fts"], judged=True)
    masks = [np.array([keep(g) for g in grades]) for keep in (_relevant, _not, lambda g: g is None)]
    for group, mask in zip(vector.groups, masks, strict=True):
        assert list(group.counts) == np.histogram(scores[mask], vector.edges)[0].tolist()
        assert group.median == pytest.approx(np.median(scores[mask]))
    assert [g.total for g in fts.groups] == [0, 0, 0]
    (alone,) = distributions(pairs, ["vector"], judged=False)
    assert [g.total for g in alone.groups] == [500]


def _relevant(grade: int | None) -> bool:
    return grade is not None and grade > 0


def _not(grade: int | None) -> bool:
    return grade is not None and grade <= 0


def test_slices_compare_their_own_queries() -> None:
    queries = pa.table(
        {
            "query_id": ["a", "b", "c", "d"],
            "text": ["one", "one two three", "one two three four", "x " * 20],
            "tags": [["t"], ["t", "u"], ["t"], None],
        }
    )
    values = {"a": (0.0, 1.0), "b": (0.5, 0.0), "c": (0.5, 0.25), "d": (1.0, 1.0)}
    rows, left_out = slice_rows(values, queries)
    assert [(r.kind, r.name) for r in rows] == [("length", "3-5 words"), ("tag", "t")]
    expected = compare_paired(np.array([0.5, 0.5]), np.array([0.0, 0.25]), resamples=1999)
    assert rows[0].paired == expected
    assert left_out == 3  # of one query each: 1-2 words, 11 words or more, u


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-0.13, 0.08, [-0.1, -0.05, 0, 0.05]),
        (3, 3, [3]),
        (-7e5, 2e6, [0, 1000000, 2000000]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (-0.0421, "\u22120.042"),
        (0.0004, "0.000"),
        (-0.0004, "0.000"),
        (0.5, "+0.500"),
        (None, "\u2013"),
    ],
)
def test_differences_have_a_sign_unless_they_round_to_zero(value: float | None, shown: str) -> None:
    assert words.signed(value) == shown


def test_durations_and_shares() -> None:
    assert [words.seconds(s) for s in (0.25, 12.34, 75, 7384)] == [
        *("250 ms", "12.3 s", "1 min 15 s", "2 h 3 min")
    ]
    assert [words.percent(s) for s in (0, 0.031, 0.5, 0.999, 1)] == [
        *("0%", "3.1%", "50%", "99.9%", "100%")
    ]
    assert words.p_value(0.0001) == "< 0.001"


def test_svg_escapes_what_it_is_given() -> None:
    found = element("text", "<b>&", class_='"><i>', stroke_width=1.5)
    assert found == '<text class="&#34;&gt;&lt;i&gt;" stroke-width="1.5">&lt;b&gt;&amp;</text>'
    assert Scale(0, 0, 10, 20)(0) == 15


def test_many_queries_share_bars() -> None:
    values = [(f"q{i}", math.sin(i)) for i in range(10_000)]
    drawn = charts.differences(values, "AP")
    assert drawn.count('class="bar') == charts.MAX_BARS
    assert len(drawn) < 150_000
    better = sum(v > 0 for _, v in values)
    assert f"AP per query: {better} better, 1 unchanged" in drawn


@pytest.mark.parametrize("queries", [0, 1])
def test_degenerate_samples_are_drawn(queries: int) -> None:
    values = np.full(queries, 0.5)
    paired = compare_paired(values, values)
    ElementTree.fromstring(charts.interval_picture(paired, 0.0, certain=False))
    ElementTree.fromstring(charts.interval_cell(paired, (0.0, 0.0), 0.01, certain=True))
    if queries:
        ElementTree.fromstring(charts.differences([("q", 0.0)] * queries, "AP"))


def test_only_findings_are_coloured() -> None:
    paired = compare_paired(np.zeros(30), np.linspace(0.1, 0.4, 30))
    for found, kind in ((True, "better"), (False, "even")):
        drawn = charts.interval_cell(paired, (-1, 1), None, certain=found)
        assert f'class="dot {kind}"' in drawn and f'class="span {kind}"' in drawn
