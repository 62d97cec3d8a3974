"""Measures, comparisons, gates and histories for people, from the values that --json prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from flows.commands.tables import add_row, new_table
from reranking.numbers import cells

_SHOWN_DOCUMENTS = 4  # of a moved query; --json and the report have all
_SHOWN_TEXT = 60
_COLORS = {"improved": "green", "regressed": "red"}


def slices_table(values: Mapping[str, Any], query_type: str) -> Table | None:
    """The primary measure per slice of the queries, the worst slice marked."""
    rows = [
        row
        for row in values["slices"]
        if row["measure"] == values["primary"] and row["query_type"] == query_type
    ]
    if len(rows) < 2:
        return None
    columns = ["slice", "first stage", "reranked", "change", "queries", ""]
    table = new_table(f"{values['primary']} ({query_type}) by slice", columns, columns[1:5])
    for row in rows:
        mark = Text("worst", style="red") if row["worst"] else ""
        add_row(table, f"{row['kind']}: {row['slice']}", *cells(row), row["queries"], mark)
    return table


def evaluation_lines(values: Mapping[str, Any]) -> list[str]:
    """What the measures rest on."""
    judged = values["queries"] - values["unjudged_queries"]
    of_set = f", query set {values['query_set']}" if "query_set" in values else ""
    lines = [
        f"Run {values['run_id'][:8]}{of_set} on judgment list {values['judgment_list']}: "
        f"{judged} of {values['queries']} queries are judged"
    ]
    if values["stale_grades"]:
        lines.append(
            f"{values['stale_grades']} grades belong to an older wording of their query and do "
            "not count"
        )
    for row in values["ties"]:
        if row["matter"]:
            lines.append(f"ties, {row['query_type']} {row['stage']}: {row['sentence']}")
    return lines + unknown_lines(values["unknown"])


def unknown_lines(unknown: Mapping[str, Any] | None) -> list[str]:
    """What is judged that the run does not know; no line if there is nothing of the kind."""
    lines = []
    for what, of in (("document", "corpus"), ("query", "query set")):
        plural = {"document": "documents", "query": "queries"}[what]
        if unknown is not None and unknown[plural]:
            examples = ", ".join(unknown[f"{what}_examples"])
            lines.append(
                f"judged {plural} not in the {of}: {unknown[plural]:,} (such as {examples})"
            )
    return lines


def gates_table(gates: Mapping[str, Any] | None) -> Table | None:
    """Every condition of every gate; None where the config has no gates."""
    if gates is None:
        return None
    table = new_table(f"Gates, against {gates['against']}", ["", "condition", "found"])
    for row in gates["conditions"]:
        mark = Text("passed", style="green") if row["passed"] else Text("FAILED", style="red")
        add_row(table, mark, row["condition"], row["reason"])
    return table


def sentence(comparison: Mapping[str, Any]) -> Text:
    """The verdict, colored."""
    return Text(comparison["sentence"], style=_COLORS.get(comparison["verdict"], ""))


def set_sentence(query_set: str, comparison: Mapping[str, Any]) -> Text:
    """The verdict on one query set, colored."""
    made = sentence(comparison)
    return Text(f"{query_set}: ", style="bold").append_text(made)


def sets_table(comparisons: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """Every measure on each query set, one line each; None if there is one set of queries."""
    rows = [
        (name, row) for name, one in comparisons.items() for row in one["rows"] if row["queries"]
    ]
    if not rows:
        return None
    columns = ["query set", *_COMPARED, "queries"]
    table = new_table("By query set", columns, columns[3:])
    for name, row in rows:
        add_row(table, name, *_compared(row), row["queries"])
    return table


def comparison_table(base: Mapping[str, Any], comparison: Mapping[str, Any]) -> Table | None:
    """One line per query type and measure, the one that decides marked with a star."""
    rows = [row for row in comparison["rows"] if row["queries"]]
    if not rows:
        return None
    title = f"{base['name']} -> {comparison['candidate']}, {rows[0]['queries']} queries"
    table = new_table(title, _COMPARED, _COMPARED[2:])
    for row in rows:
        add_row(table, *_compared(row))
    return table


_COMPARED = [
    *("query type", "measure", "base", "candidate", "difference", "95 % interval", "p"),
    *("+/=/-", "judged"),
]


def _compared(row: Mapping[str, Any]) -> list[str]:
    return [
        row["query_type"],
        row["measure"] + (" *" if row["primary"] else ""),
        _number(row["base"]),
        _number(row["candidate"]),
        _number(row["difference"], "+"),
        f"{_number(row['low'], '+')} to {_number(row['high'], '+')}",
        "" if row["p_corrected"] is None else f"{row['p_corrected']:.3g}",
        f"{row['wins']}/{row['ties']}/{row['losses']}",
        f"{_share(row['judged_base'])}, {_share(row['judged_candidate'])}",
    ]


def comparison_lines(comparison: Mapping[str, Any]) -> list[str]:
    """What differs between the two, how alike they rank, and what was left out."""
    lines = [f"{name}: {a} -> {b}" for name, (a, b) in comparison["differing"].items()]
    ranks = comparison["agreement"]
    if ranks["queries"]:
        lines.append(
            f"agreement over {ranks['queries']} queries: {ranks['identical']} rank identically, "
            f"overlap@{ranks['k']} {ranks['overlap']:.3f}, RBO {ranks['rbo']:.3f}"
        )
    lines += [f"ties: {text}" for text in comparison["ties"]]
    for notice in comparison["notices"]:
        examples = ", ".join(notice["examples"])
        lines.append(f"left out: {notice['queries']} queries {notice['reason']} ({examples})")
    return lines + unknown_lines(comparison["unknown"])


def moved_table(comparison: Mapping[str, Any], most: int) -> Table | None:
    """The queries whose primary measure moved most, with what happened to their documents."""
    if not comparison["moved"]:
        return None
    columns = ["query", "base", "candidate", "difference", "documents"]
    table = new_table("Queries that moved most", columns, columns[1:4])
    for column in (table.columns[0], table.columns[-1]):
        column.no_wrap = False
    for query in comparison["moved"][:most]:
        text = (query["text"] or "")[:_SHOWN_TEXT]
        add_row(
            table,
            f"{query['query_id']} {text}",
            _number(query["base"]),
            _number(query["candidate"]),
            _number(query["difference"], "+"),
            "; ".join(_moves(query["documents"])),
        )
    return table


def _moves(documents: Iterable[Mapping[str, Any]]) -> list[str]:
    """The documents that explain most: judged ones first, then by their rank in the candidate."""
    telling = [d for d in documents if d["kind"] != "same"]
    telling.sort(key=lambda d: -(d["grade"] or 0))
    return [f"{d['doc_id']} {d['reason']}" for d in telling[:_SHOWN_DOCUMENTS]]


def history_table(rows: list[dict[str, Any]], measure: str) -> Table:
    """One line per run and query type, oldest first."""
    columns = ["started", "run", "reranker", "query type", "first stage", measure, "change"]
    more = ["queries", "set otherwise"]
    sets = len({row["query_set"] for row in rows}) > 1
    names = [*(["query set"] if sets else []), *columns, *more]
    table = new_table(f"{measure} over {len(rows)} rows", names, columns[4:])
    for row in rows:
        change = "" if row["change"] is None else f"{row['change']:+.3f}"
        add_row(
            table,
            *([row["query_set"]] if sets else []),
            f"{row['started_at']:%Y-%m-%d %H:%M}",
            row["run_id"][:8],
            Path(row["reranker_model"] or "none").name,
            row["query_type"],
            _number(row["first"]),
            _number(row["value"]),
            change,
            row["queries"],
            "; ".join(row["changed"]),
        )
    return table


def _number(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{value:{sign}.3f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"
