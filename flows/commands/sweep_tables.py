"""A sweep for people: one table a family, every setting with its interval drawn beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table
from rich.text import Text

from flows.commands.tables import add_row, new_table

_WIDTH = 33  # of a drawn interval
_LONG = 12  # settings of a family that is shown in part
_COLORS = {"improved": "green", "regressed": "red"}


def sweep_lines(values: Mapping[str, Any]) -> list[str]:
    """What the sweep rests on."""
    rate = values["pairs_per_second"]
    speed = "" if rate is None else f"; seconds are those of scoring at {rate:,.1f} pairs/s"
    return [
        f"Run {values['run_id'][:8]} on judgment list {values['judgment_list']}: "
        f"{values['measure']} ({values['query_type']}) over {values['queries']} judged queries, "
        f"today {values['today']['mean']:.4f}",
        f"{values['how']}{speed}",
    ]


def family_table(values: Mapping[str, Any], family: Mapping[str, Any], every: bool) -> Table:
    """One family: the settings with their means, intervals and cost; the verdict as its title.

    Of a long family: today's, the curve of the chosen setting, and the best of each other curve.
    """
    points = family["points"]
    shown = points if every or len(points) <= _LONG else _shown(family)
    measure = values["measure"]
    columns = ["setting", measure, "difference", "95 % interval", "pairs", "seconds", ""]
    style = _COLORS.get(family["verdict"], "")
    left = len(points) - len(shown)
    table = new_table("", columns, [measure, "difference", "pairs", "seconds"])
    table.title = Text(family["sentence"], style=f"bold {style}")
    if left:
        table.caption = f"{left} more settings were tried: --all shows them"
        table.caption_justify = "left"
    rows = [*shown, *([values["lancedb"]] if values["lancedb"] else [])]
    low, high = min(r["low"] for r in rows), max(r["high"] for r in rows)
    for row in rows:
        seconds = "" if row["seconds"] is None else f"{row['seconds']:,.0f}"
        add_row(
            table,
            row["name"],
            f"{row['mean']:.4f}",
            f"{row['difference']:+.4f}",
            drawn(row, low, high),
            f"{row['pairs']:,}",
            seconds,
            _mark(family, row),
        )
    return table


def _mark(family: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    marks = []
    if row["name"] == family["chosen"]:
        marks.append(f"chosen by {family['picked']} of {family['parts']}")
    if row["name"] == family["knee"]:
        marks.append("knee")
    return ", ".join(marks)


def _shown(family: Mapping[str, Any]) -> list[dict[str, Any]]:
    points = family["points"]
    chosen = next(p for p in points if p["name"] == family["chosen"])
    best: dict[str, dict[str, Any]] = {}
    for point in points:
        series = point["series"] or point["name"]
        if series not in best or point["mean"] > best[series]["mean"]:
            best[series] = point
    kept = [points[0]["name"], *(p["name"] for p in best.values())]
    return [
        p for p in points if p["name"] in kept or (p["series"] and p["series"] == chosen["series"])
    ]


def drawn(row: Mapping[str, Any], low: float, high: float) -> str:
    """An interval as text: `|` is today's, `o` the difference, dashes its band."""
    low, high = min(low, 0.0), max(high, 0.0)
    span = (high - low) or 1.0

    def place(value: float) -> int:
        return round((value - low) / span * (_WIDTH - 1))

    cells = [" "] * _WIDTH
    for i in range(place(row["low"]), place(row["high"]) + 1):
        cells[i] = "-"
    cells[place(0.0)] = "|"
    cells[place(row["difference"])] = "o"
    return "".join(cells)
