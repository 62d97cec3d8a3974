"""A bake-off as one HTML page: the table, and quality against cost as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from reranking.files import check_out, whole_file
from reranking.report.page import page_of
from reranking.report.svg import Scale, element, label, line, picture, tick_digits
from reranking.report.words import number

_WIDTH: Final = 1040
_HEIGHT: Final = 320


def render_bakeoff(values: Mapping[str, Any]) -> str:
    """Render the values of a bake-off as an HTML document, texts escaped."""
    return page_of(
        "bakeoff.html.jinja",
        values=values,
        picture=quality_and_cost(values),
        made_at=datetime.now(UTC),
        version=version("rescore"),
    )


def write_bakeoff(values: Mapping[str, Any], out: Path) -> None:
    """Write the page whole or not at all; raises ConfigError if no file can be written there."""
    check_out(out)
    with whole_file(out) as file:
        file.write(render_bakeoff(values).encode("utf-8"))


def quality_and_cost(values: Mapping[str, Any]) -> Markup | None:
    """Draw each model's measure, with its interval, against its seconds; None if none has both."""
    rows = [r for r in values["rows"] if r["mean"] is not None and r["seconds"] is not None]
    if not rows:
        return None
    most = max(r["seconds"] for r in rows) or 1.0
    across = Scale(0, most, 62, _WIDTH - 190)
    low, high = min(r["mean_low"] for r in rows), max(r["mean_high"] for r in rows)
    air = 0.06 * ((high - low) or 0.1)
    tall = Scale(low - air, high + air, _HEIGHT - 44, 12)
    marks = tall.ticks(5)
    digits = max(tick_digits(marks), 2)
    parts = []
    for v in marks:
        parts.append(line(54, tall(v), _WIDTH - 180, tall(v), "grid"))
        parts.append(label(46, tall(v) + 4, number(v, digits), "tick", "end"))
    for v in across.ticks(6):
        parts.append(label(across(v), _HEIGHT - 24, f"{v:,g}", "tick"))
    parts.append(label(across(most / 2), _HEIGHT - 6, "seconds of scoring all pairs", "hint"))
    for row in rows:
        x, y = across(row["seconds"]), tall(row["mean"])
        kind = "reranked" if row["pareto"] else "first"
        tip = element("title", f"{row['name']}: {number(row['mean'])}, {row['seconds']:,.0f} s")
        parts += [
            line(x, tall(row["mean_low"]), x, tall(row["mean_high"]), "span even"),
            element("circle", tip, cx=x, cy=y, r=6, class_=f"point {kind}"),
            label(x + 10, y + 4, row["name"], f"name {kind}", "start"),
        ]
    told = "; ".join(f"{r['name']}: {number(r['mean'])} in {r['seconds']:,.0f} s" for r in rows)
    return picture(_WIDTH, _HEIGHT, f"quality against cost: {told}", *parts, class_="wide")
