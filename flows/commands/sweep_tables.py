"""Sweeps and bake-offs for people: settings and models with their intervals and costs."""

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


def bakeoff_table(values: Mapping[str, Any]) -> Table:
    """One model a row: quality, what it costs; a star marks the pareto front."""
    measure = values["measure"]
    columns = [
        *("", "models", measure, "95 %", f"to {values['base']}", "95 % interval", "p", "verdict"),
        *("pairs/s", "tokens", "cut", "MB", "pairs", "seconds"),
    ]
    numbers = [c for c in columns if c not in ("", "models", "verdict")]
    table = new_table(f"Bake-off on {values['query_set']}", columns, numbers)
    table.caption = "* no other one is better and cheaper"
    table.caption_justify = "left"
    for row in values["rows"]:
        if row["run_id"] is None:
            add_row(table, "", row["name"], *[""] * 5, Text("failed", style="red"))
            continue
        add_row(
            table,
            "*" if row["pareto"] else "",
            row["name"],
            *_quality(row),
            Text(row["verdict"] or "", style=_COLORS.get(row["verdict"] or "", "")),
            _number(row["pairs_per_second"], ",.1f"),
            _number(row["tokens_per_pair"], ",.0f"),
            _number(row["truncated"], ".1%"),
            _number(row["megabytes"], ",.0f"),
            f"{row['pairs']:,}",
            _number(row["seconds"], ",.0f"),
        )
    return table


def bakeoff_sets_table(values: Mapping[str, Any]) -> Table | None:
    """Quality on each query set's own queries, one model a row; None if there is one set."""
    if not values["sets"]:
        return None
    columns = ["query set", "models", values["measure"], "95 %", f"to {values['base']}"]
    columns += ["95 % interval", "p", "verdict"]
    table = new_table("By query set", columns, columns[2:7])
    for name, rows in values["sets"].items():
        for row in (r for r in rows if r["mean"] is not None):
            add_row(
                table,
                name,
                row["name"],
                *_quality(row),
                Text(row["verdict"] or "", style=_COLORS.get(row["verdict"] or "", "")),
            )
    return table


def _quality(row: Mapping[str, Any]) -> list[str]:
    return [
        _number(row["mean"], ".4f"),
        f"{_number(row['mean_low'], '.3f')} to {_number(row['mean_high'], '.3f')}",
        _number(row["difference"], "+.4f"),
        "" if row["low"] is None else f"{row['low']:+.4f} to {row['high']:+.4f}",
        _number(row["p"], ".3g"),
    ]


def costs_table(rows: list[dict[str, Any]]) -> Table:
    """What each model would cost, or why that cannot be told."""
    columns = ["models", "documents to encode", "pairs", "to score", "pairs/s", "hours", ""]
    table = new_table("What it would cost", columns, columns[1:6])
    for row in rows:
        add_row(
            table,
            row["name"],
            f"{row['documents_to_encode']:,}",
            _number(row.get("pairs"), ","),
            _number(row.get("to_score"), ","),
            _number(row.get("pairs_per_second"), ",.1f"),
            _number(row.get("hours"), ",.2f"),
            row["reason"],
        )
    return table


def _number(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"
