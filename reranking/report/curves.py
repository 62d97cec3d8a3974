"""The report's pictures of a sweep: the measure along curves of settings, with bands. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from markupsafe import Markup

from reranking.evaluation.sweep.run_sweep import Sweep
from reranking.evaluation.sweep.select import Choice, Point
from reranking.report.svg import Scale, element, label, line, path, picture, tick_digits
from reranking.report.words import number, signed

MAX_CURVES: Final = 6  # of a family, those with the best settings
_LEAST: Final = 3  # points that make a curve
_WIDTH: Final = 336
_HEIGHT: Final = 190


def curves(sweep: Sweep, choice: Choice) -> list[tuple[str, Markup]]:
    """Return the family's best curves as (what varies, picture), all on one scale of the measure.

    Today's value is a line across; the band is the 95 % interval of the difference to it.
    """
    series: dict[str, list[Point]] = {}
    for point in choice.points:
        if point.option.x is not None:
            series.setdefault(point.option.series, []).append(point)
    drawn = [(n, sorted(p, key=_x)) for n, p in series.items() if len(p) >= _LEAST]
    drawn.sort(key=lambda item: -max(p.mean for p in item[1]))
    shown = drawn[:MAX_CURVES]
    today = sweep.today.mean
    values = [today + v for _, points in shown for p in points for v in (p.low, p.high)]
    low, high = min([today, *values]), max([today, *values])
    air = 0.06 * ((high - low) or 0.1)
    tall = Scale(low - air, high + air, _HEIGHT - 34, 10)
    best = choice.points[choice.chosen]
    return [(name, _curve(name, points, tall, sweep, best)) for name, points in shown]


def _x(point: Point) -> float:
    return point.option.x or 0.0


def _curve(name: str, points: Sequence[Point], tall: Scale, sweep: Sweep, chosen: Point) -> Markup:
    across = Scale(0, len(points) - 1, 48, _WIDTH - 10)  # settings stand evenly apart
    marks = tall.ticks(4)
    digits = max(tick_digits(marks), 2)
    today = sweep.today.mean
    parts = []
    for v in marks:
        parts += [
            line(42, tall(v), _WIDTH - 4, tall(v), "grid"),
            label(36, tall(v) + 4, number(v, digits), "tick", "end"),
        ]
    upper = [(across(i), tall(today + p.high)) for i, p in enumerate(points)]
    lower = [(across(i), tall(today + p.low)) for i, p in enumerate(points)]
    parts.append(path([*upper, *reversed(lower)], "band", closed=True))
    parts.append(line(42, tall(today), _WIDTH - 4, tall(today), "today"))
    parts.append(path([(across(i), tall(p.mean)) for i, p in enumerate(points)], "series reranked"))
    for i, point in enumerate(points):
        said = (
            f"{point.option.name}: {number(point.mean)}, {signed(point.difference)} to today's "
            f"({signed(point.low)} to {signed(point.high)})"
        )
        x, y = across(i), tall(point.mean)
        if point is chosen:
            parts.append(element("circle", cx=x, cy=y, r=8, class_="ring reranked"))
        tip = element("title", said)
        parts.append(element("circle", tip, cx=x, cy=y, r=4, class_="point reranked"))
        parts.append(label(x, _HEIGHT - 18, f"{_x(point):g}", "tick"))
    parts.append(label(_WIDTH / 2, _HEIGHT - 3, name, "hint"))
    told = "; ".join(f"{_x(p):g}: {number(p.mean)}" for p in points)
    what = f"{sweep.measure} by {name}: {told}; today {number(today)}"
    return picture(_WIDTH, _HEIGHT, what, *parts, class_="panel")
