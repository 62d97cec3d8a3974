"""The report's pictures of one run: score distributions, history, reliability. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from markupsafe import Markup

from reranking.labelling.calibration import Reliability
from reranking.report.content import Distribution, Group, History
from reranking.report.svg import Scale, element, label, line, path, picture, tick_digits
from reranking.report.words import count, number, ordinary, percent

_PANEL: Final = 336
_ROW: Final = 86
_WIDE: Final = 1040


def distribution(histograms: Distribution) -> Markup:
    """Draw one histogram per group of pairs, above each other on one scale of logits.

    Each is as high as its own largest bar: the shapes are compared, the counts are written.
    """
    height = _ROW * len(histograms.groups) + 40
    scale = Scale(histograms.edges[0], histograms.edges[-1], 6, _PANEL - 6)
    marks = scale.ticks(6)
    digits = tick_digits(marks)
    parts = [line(scale(v), 8, scale(v), height - 34, "grid") for v in marks]
    for place, group in enumerate(histograms.groups):
        parts += _ridge(group, place, histograms.edges, scale)
    parts += [label(scale(v), height - 18, number(v, digits), "tick") for v in marks]
    parts.append(label(_PANEL / 2, height - 2, "raw logit", "hint"))
    description = "; ".join(
        f"{count(g.total)} {g.name}"
        + ("" if g.median is None else f", median {number(g.median, 2)}")
        for g in histograms.groups
    )
    what = f"raw logits, {ordinary(histograms.query_type)} candidates: {description}"
    return picture(_PANEL, height, what, *parts, class_="panel")


def _ridge(group: Group, place: int, edges: Sequence[float], scale: Scale) -> list[Markup]:
    bottom = _ROW * (place + 1)
    most = max(group.counts) or 1
    tall = Scale(0, most, bottom, bottom - _ROW + 34)
    outline = [(scale(edges[0]), float(bottom))]
    for left, right, value in zip(edges, edges[1:], group.counts, strict=False):
        outline += [(scale(left), tall(value)), (scale(right), tall(value))]
    outline.append((scale(edges[-1]), float(bottom)))
    parts = [
        label(6, bottom - _ROW + 24, f"{group.name} \u00b7 {count(group.total)}", "name", "start")
    ]
    if group.total:
        parts.append(path(outline, f"ridge g{place}", closed=True))
        parts.append(line(scale.start, bottom, scale.end, bottom, "axis"))
    if group.median is not None:
        x = scale(group.median)
        parts.append(line(x, bottom - _ROW + 34, x, bottom, "median"))
        parts.append(
            label(
                _PANEL - 6, bottom - _ROW + 24, f"median {number(group.median, 1)}", "hint", "end"
            )
        )
    return parts


def history(past: History, current: str) -> Markup:
    """Draw the measure over the pipeline's runs; the ring is the run that the report is about."""
    points = past.points
    stages = {
        "first stage": [p.first for p in points],
        "reranked": [p.reranked for p in points],
    }
    known = [v for values in stages.values() for v in values if v is not None]
    air = 0.12 * ((max(known) - min(known)) or 0.1)
    width, height = _WIDE, 250
    tall = Scale(min(known) - air, max(known) + air, height - 40, 12)
    across = Scale(0, len(points) - 1, 62, width - 110)
    marks = tall.ticks(5)
    digits = max(tick_digits(marks), 2)
    parts = []
    for v in marks:
        parts.append(line(54, tall(v), width - 96, tall(v), "grid"))
        parts.append(label(46, tall(v) + 4, number(v, digits), "tick", "end"))
    every = -(-len(points) // 10)
    for i, point in enumerate(points):
        if (len(points) - 1 - i) % every == 0:
            parts.append(label(across(i), height - 18, f"{point.at:%d %b}", "tick"))
            parts.append(label(across(i), height - 4, f"{point.at:%H:%M}", "hint"))
        if point.changed:
            parts.append(line(across(i), 12, across(i), height - 40, "ideal"))
    ends = _apart([tall(v[-1]) if v[-1] is not None else None for v in stages.values()])
    for (name, values), kind, y in zip(stages.items(), ("first", "reranked"), ends, strict=True):
        parts += _series(
            [(across(i), v) for i, v in enumerate(values)], tall, kind, points, current
        )
        if y is not None:
            parts.append(label(width - 92, y + 4, name, f"name {kind}", "start"))
    description = f"{past.measure} on {ordinary(past.query_type)} search over {len(points)} runs"
    return picture(width, height, description, *parts, class_="wide")


def _apart(ends: list[float | None]) -> list[float | None]:
    """The heights of two end labels, moved apart where they would overlap."""
    a, b = ends
    if a is None or b is None or abs(a - b) >= 16:
        return ends
    middle, order = (a + b) / 2, 1 if a <= b else -1
    return [middle - 8 * order, middle + 8 * order]


def _series(
    places: list[tuple[float, float | None]],
    tall: Scale,
    kind: str,
    points: Sequence[object],
    current: str,
) -> list[Markup]:
    known = [(x, tall(v), v, p) for (x, v), p in zip(places, points, strict=True) if v is not None]
    if not known:
        return []
    parts = [path([(x, y) for x, y, _, _ in known], f"series {kind}")]
    for x, y, value, point in known:
        run_id = str(getattr(point, "run_id", ""))
        tip = element("title", f"{run_id[:8]}: {number(value)}")
        if run_id == current:
            parts.append(element("circle", cx=x, cy=y, r=8, class_=f"ring {kind}"))
        parts.append(element("circle", tip, cx=x, cy=y, r=4, class_=f"point {kind}"))
    return parts


def reliability(quality: Reliability) -> Markup:
    """Draw what share of the pairs given a probability was relevant, with intervals."""
    size, left, top, bottom = 400, 52, 30, 348
    across, tall = Scale(0, 1, left, size - 12), Scale(0, 1, bottom, top)
    most = max((b.count for b in quality.bins), default=1)
    parts = []
    for v in across.ticks(5):
        parts += [
            line(across(v), top, across(v), bottom, "grid"),
            line(left, tall(v), size - 12, tall(v), "grid"),
            label(across(v), bottom + 18, percent(v), "tick"),
            label(left - 8, tall(v) + 4, percent(v), "tick", "end"),
        ]
    parts.append(line(left, bottom, size - 12, top, "ideal"))
    for b in quality.bins:
        x = across(b.predicted)
        tip = element("title", f"{b.count} pairs: {percent(b.predicted)}, {percent(b.observed)}")
        parts.append(line(x, tall(b.low), x, tall(b.high), "span accent"))
        radius = 3 + 6 * (b.count / most) ** 0.5
        parts.append(
            element("circle", tip, cx=x, cy=tall(b.observed), r=radius, class_="dot accent")
        )
    parts.append(label((left + size) / 2, bottom + 40, "predicted probability", "hint"))
    parts.append(label(left - 44, 14, "share judged relevant", "hint", "start"))
    description = "; ".join(
        f"predicted {percent(b.predicted)}, observed {percent(b.observed)} of {b.count}"
        for b in quality.bins
    )
    return picture(size, bottom + 46, f"reliability: {description}", *parts, class_="square")
