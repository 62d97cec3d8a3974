"""The report's pictures of a comparison: numbers in, SVG out. Colours are classes, set by the page.

Nothing rests on colour alone: better and worse differ in place, sign or direction as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from markupsafe import Markup

from reranking.evaluation.statistics import Paired
from reranking.report.content import ShownDocument
from reranking.report.svg import Scale, box, element, label, line, picture, tick_digits
from reranking.report.words import count, number, signed

MAX_BARS: Final = 480  # more queries than this share bars
RANK_HEIGHT: Final = 92  # of one row of a ranking, in CSS pixels: style.css has it too
_CELL: Final = (210, 26)
_HERO: Final = (430, 108)
_WIDE: Final = 1040


def way(value: float | None) -> str:
    """Return the class of a difference: better, worse or even."""
    return "even" if not value else "better" if value > 0 else "worse"


def interval_scale(rows: Sequence[Paired], margin: float) -> tuple[float, float]:
    """Return the range that shows all intervals and the margin, with some air."""
    values = [v for r in rows for v in (r.low, r.high, r.difference) if v is not None]
    low, high = min([-margin, *values]), max([margin, *values])
    air = 0.06 * (high - low or 1.0)
    return low - air, high + air


def interval_cell(
    paired: Paired, limits: tuple[float, float], margin: float | None, *, certain: bool
) -> Markup:
    """Draw one row's difference and interval on the scale that its column shares.

    `certain`: whether the difference may be called better or worse; else it is drawn in grey.
    """
    width, height = _CELL
    scale = Scale(*limits, 4, width - 4)
    kind = way(paired.difference) if certain else "even"
    drawn = _interval(paired, scale, 0, height, margin, kind)
    return picture(width, height, _said(paired), *drawn, class_="cell")


def interval_axis(limits: tuple[float, float]) -> Markup:
    """Draw the scale below a column of interval cells."""
    width, height = _CELL
    scale = Scale(*limits, 4, width - 4)
    return picture(width, height, "scale of the column", *_axis(scale, 0, 4), class_="cell")


def interval_picture(paired: Paired, margin: float, *, certain: bool) -> Markup:
    """Draw the deciding measure's difference, its interval and the margin, large."""
    kind = way(paired.difference) if certain else "even"
    width, height = _HERO
    scale = Scale(*interval_scale([paired], margin), 12, width - 12)
    zero = scale(0)
    parts = [
        label(zero - 8, 12, "\u25c4 worse", "hint", "end"),
        label(zero + 8, 12, "better \u25ba", "hint", "start"),
        *_interval(paired, scale, 20, height - 48, margin, kind),
        *_axis(scale, 20, height - 24),
    ]
    return picture(width, height, _said(paired), *parts, class_="hero-interval")


def _said(paired: Paired) -> str:
    if paired.difference is None:
        return "no difference could be measured"
    if paired.low is None or paired.high is None:
        return f"difference {signed(paired.difference)}, too few queries for an interval"
    return (
        f"difference {signed(paired.difference)}, 95 percent interval "
        f"{signed(paired.low)} to {signed(paired.high)}"
    )


def _interval(
    paired: Paired, scale: Scale, top: float, height: float, margin: float | None, kind: str
) -> list[Markup]:
    """Margin band, zero line, interval bar and the dot of the difference."""
    parts = []
    if margin:
        left = scale(-margin)
        parts.append(box(left, top, scale(margin) - left, height, "margin"))
    parts.append(line(scale(0), top, scale(0), top + height, "zero"))
    if paired.difference is None:
        return parts
    middle = top + height / 2
    if paired.low is not None and paired.high is not None:
        low, high = scale(paired.low), scale(paired.high)
        cap = min(height * 0.22, 8)
        parts += [
            line(low, middle, high, middle, f"span {kind}"),
            line(low, middle - cap, low, middle + cap, f"span {kind}"),
            line(high, middle - cap, high, middle + cap, f"span {kind}"),
        ]
    radius = 4 if height < 40 else 6
    dot = element("circle", cx=scale(paired.difference), cy=middle, r=radius, class_=f"dot {kind}")
    return [*parts, dot]


def _axis(scale: Scale, top: float, bottom: float) -> list[Markup]:
    marks = scale.ticks(4)
    digits = tick_digits(marks)
    return [
        line(scale.start, bottom, scale.end, bottom, "axis"),
        *(line(scale(v), bottom, scale(v), bottom + 4, "axis") for v in marks),
        *(label(scale(v), bottom + 17, signed(v, digits), "tick") for v in marks),
    ]


def dumbbell(base: float, candidate: float) -> Markup:
    """Draw two values between 0 and 1 (larger ones stand at the end), and which way it went."""
    scale = Scale(0, 1, 6, 114)
    left, right = (scale(min(max(v, 0.0), 1.0)) for v in (base, candidate))
    kind = way(candidate - base)
    return picture(
        120,
        18,
        f"from {number(base)} to {number(candidate)}",
        line(6, 9, 114, 9, "rail"),
        line(left, 9, right, 9, f"span {kind}"),
        element("circle", cx=left, cy=9, r=3.5, class_="dot hollow"),
        element("circle", cx=right, cy=9, r=4.5, class_=f"dot {kind}"),
        class_="cell",
    )


def differences(values: Sequence[tuple[str, float]], measure: str) -> Markup:
    """Draw each query's difference as a bar, the largest loss first: a phone shows the left end."""
    ordered = sorted(values, key=lambda item: item[1])
    bars = _bars(ordered)
    numbers = [value for _, value in bars]
    width, height = _WIDE, 270
    low, high = min([0.0, *numbers]), max([0.0, *numbers])
    if low == high:
        low, high = -1.0, 1.0
    scale = Scale(low, high, height - 46, 14)
    across = Scale(0, len(bars), 54, width - 4)
    step = (across.end - across.start) / len(bars)
    gap = 1.0 if step > 4 else 0.0
    drawn = [
        box(
            across(i),
            min(scale(v), scale(0)) if v else scale(0) - 0.75,
            max(step - gap, 0.6),
            max(abs(scale(v) - scale(0)), 1.5),
            f"bar {way(v)}",
            f"{signed(v)}  {text}",
        )
        for i, (text, v) in enumerate(bars)
    ]
    better = sum(v > 0 for _, v in ordered)
    worse = sum(v < 0 for _, v in ordered)
    description = (
        f"{measure} per query: {better} better, {len(ordered) - better - worse} unchanged, "
        f"{worse} worse; from {signed(min(numbers))} to {signed(max(numbers))}"
    )
    parts = [*_grid(scale, 54, width - 4), *drawn, line(54, scale(0), width - 4, scale(0), "zero")]
    parts += _regions(better, worse, len(ordered), height)
    return picture(width, height, description, *parts, class_="wide")


def _bars(ordered: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """One bar per query, or per run of neighbouring queries if there are too many."""
    if len(ordered) <= MAX_BARS:
        return list(ordered)
    cuts = [round(i * len(ordered) / MAX_BARS) for i in range(MAX_BARS + 1)]
    parts = [ordered[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
    return [(f"mean of {len(p)} queries", sum(v for _, v in p) / len(p)) for p in parts]


def _regions(better: int, worse: int, total: int, height: float) -> list[Markup]:
    """Brackets below the bars: how many queries are better, unchanged, worse."""
    across = Scale(0, total, 54, _WIDE - 4)
    parts: list[Markup] = []
    spans = (
        (0, worse, "worse", "worse"),
        (worse, total - better, "unchanged", "even"),
        (total - better, total, "better", "better"),
    )
    for start, end, word, kind in spans:
        if end > start:
            x1, x2 = across(start) + 1, across(end) - 1
            parts.append(line(x1, height - 34, x2, height - 34, f"bracket {kind}"))
            parts += _region_label(x1, x2, f"{count(end - start)} {word}", height - 16)
    return parts


def _region_label(x1: float, x2: float, text: str, y: float) -> list[Markup]:
    if x2 - x1 < 7.5 * len(text):
        if x1 > 60 and x2 < _WIDE - 12:
            return []  # no room in the middle: the legend says it
        return (
            [label(x1, y, text, "tick", "start")]
            if x1 < 60
            else [label(x2, y, text, "tick", "end")]
        )
    return [label((x1 + x2) / 2, y, text, "tick")]


def _grid(scale: Scale, left: float, right: float) -> list[Markup]:
    marks = scale.ticks(5)
    digits = tick_digits(marks)
    return [
        part
        for v in marks
        for part in (
            line(left, scale(v), right, scale(v), "grid"),
            label(left - 8, scale(v) + 4, signed(v, digits), "tick", "end"),
        )
    ]


def slopes(documents: Sequence[ShownDocument], ranks: int) -> Markup:
    """Draw lines from each document's old rank to its new one, between two rankings."""
    height = ranks * RANK_HEIGHT
    lines = []
    for document in documents:
        a, b = document.base_rank, document.candidate_rank
        if a is None or b is None or a > ranks or b > ranks:
            continue
        ya, yb = ((rank - 0.5) * RANK_HEIGHT for rank in (a, b))
        curve = f"M0,{ya:g}C30,{ya:g} 26,{yb:g} 56,{yb:g}"
        lines.append(element("path", d=curve, class_=f"slope {way(a - b)}"))
    return element(
        "svg",
        *lines,
        viewBox=f"0 0 56 {height}",
        width=56,
        height=height,
        aria_hidden="true",
        focusable="false",
        class_="slopes",
    )


def share_bar(share: float, class_: str = "") -> Markup:
    """Draw a bar as long as the share, for a table cell that says the number itself."""
    return element(
        "svg",
        box(0, 3, 160, 10, "rail-box"),
        box(0, 3, max(160 * min(share, 1.0), 1.0), 10, f"share {class_}".strip()),
        viewBox="0 0 160 16",
        width=160,
        height=16,
        aria_hidden="true",
        focusable="false",
        class_="cell",
    )
