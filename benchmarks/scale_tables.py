"""What `benchmarks.scale` found, as a table and as a picture."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.scale import MOST_MEMORY, MOST_TIMES, MOST_WAITING, SEARCH
from reranking.report.svg import Scale, box, element, label, line, picture

_WIDTH, _ROW, _LEFT = 820, 26, 250
_STYLE = """
svg { background: #fff; font: 12px sans-serif; }
.whole { fill: #2f6f9f; } .tenth { fill: #a9c9de; } .limit { stroke: #b3261e; }
.small { font-size: 11px; fill: #555; } .title { font-size: 14px; font-weight: bold; }
"""


def table_of(found: dict[str, Any]) -> None:
    """Print a line a stage, then what was to be reached."""
    whole, tenth = found["whole"], found.get("tenth")
    table = Table("stage", *_heads(found), "times", "at most")
    for name, (wall, cpu) in whole["stages"].items():
        cells = [f"{wall:,.1f} s ({cpu:,.1f})"]
        if tenth is not None:
            cells.insert(0, "{:,.1f} s ({:,.1f})".format(*tenth["stages"][name]))
        table.add_row(name, *cells, *_times(found, name))
    console = Console(width=140)
    console.print(table)
    for text in lines(found):
        console.print(text)


def _heads(found: dict[str, Any]) -> list[str]:
    sizes = [found[n] for n in ("tenth", "whole") if n in found]
    return [f"{s['documents']:,} x {s['queries']:,}" for s in sizes]


def _times(found: dict[str, Any], stage: str) -> tuple[str, str]:
    """How many times a stage took at ten times the size; search is asked ten times as much twice.

    By the CPU's time where that is known, for the clock's is of other work on the machine as well.
    """
    if "tenth" not in found:
        return "", ""
    at = 1 if found["whole"]["stages"][stage][1] else 0
    whole, tenth = (found[n]["stages"][stage][at] for n in ("whole", "tenth"))
    most = "" if stage in (*SEARCH, "search and score") else f"{MOST_TIMES:g}"
    return f"{whole / max(tenth, 1e-9):.1f}", most


def lines(found: dict[str, Any]) -> list[str]:
    """The figures that are no stage's."""
    whole, tenth = found["whole"], found.get("tenth")
    waited = whole["waited"] / whole["search and score"]
    said = [
        f"pairs: {whole['pairs']:,}, results: {whole['results']:,}, scorer: {found['rate']:,.0f}/s",
        f"an unchanged source: {whole['unchanged rows/s']:,.0f} rows/s (at least 100,000)",
        f"fragments after the first ingest: {whole['fragments']}; "
        f"1 % changed: {whole['changed']:,} rows encoded",
        f"the scorer waited for search {waited:.1%} of the time (at most {MOST_WAITING:.0%}), and "
        f"{whole['first chunk']:.1f} s for the first chunk",
        f"disk: {whole['disk'] / 1e6:,.0f} MB; peak memory: {whole['peak of all']:,.0f} MB, "
        f"{whole['before']:,.0f} of them before the job",
    ]
    if tenth is not None:
        growth = whole["peak of all"] / tenth["peak of all"]
        said[-1] += f"; {growth:.2f} times a tenth's (at most {MOST_MEMORY})"
    return said


def picture_of(found: dict[str, Any]) -> str:
    """Bars of the CPU seconds of each stage, of the tenth ten times as long."""
    whole, tenth = found["whole"], found.get("tenth")
    stages = {n: (c or w) for n, (w, c) in whole["stages"].items() if n != "search and score"}
    most = max(stages.values())
    if tenth is not None:
        most = max(most, *(10 * (tenth["stages"][n][1] or tenth["stages"][n][0]) for n in stages))
    scale = Scale(0, most, _LEFT, _WIDTH - 90)
    size = f"{whole['documents']:,} documents, {whole['queries']:,} queries"
    drawn = [
        element("style", _STYLE),
        label(10, 22, f"CPU seconds a stage: {size}, limit {found['limit']}", "title", "start"),
        label(10, 40, "dark: the whole; light: ten times a tenth of it", "small", "start"),
    ]
    for row, (name, seconds) in enumerate(stages.items()):
        y = 52 + row * _ROW
        drawn.append(label(_LEFT - 8, y + 14, name, "", "end"))
        drawn.append(box(_LEFT, y + 2, scale(seconds) - _LEFT, 10, "whole"))
        text = f"{seconds:,.1f} s"
        if tenth is not None:
            less = 10 * (tenth["stages"][name][1] or tenth["stages"][name][0])
            drawn.append(box(_LEFT, y + 13, scale(less) - _LEFT, 6, "tenth"))
            text += f", {10 * seconds / max(less, 1e-9):.1f} x"
        drawn.append(label(scale(seconds) + 6, y + 12, text, "small", "start"))
    height = 60 + len(stages) * _ROW
    drawn.append(line(_LEFT, 46, _LEFT, height - 8, "small"))
    made = picture(_WIDTH, height, f"CPU seconds a stage of {size}", *drawn)
    return str(made).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
