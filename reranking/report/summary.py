"""What a run did and what its report says as Markdown: for Prefect, and for a CI's summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reranking.numbers import cells, published_line
from reranking.report.content import Report
from reranking.report.words import count, explanation, headline, ordinary, p_value, signed
from reranking.report.words import number as shown
from reranking.runs.lengths import ALL, in_words

_TEXT = str.maketrans({c: f"\\{c}" for c in r"\`*_[]<>|#"})


def plain(text: str) -> str:
    """Return the text with Markdown's own characters escaped."""
    return " ".join(text.split()).translate(_TEXT)


def markdown(report: Report, link: str | None = None) -> str:
    """Return verdict, measures and cost; `link` leads to the HTML file."""
    lines = [f"## {plain(headline(report))}", "", plain(explanation(report)), ""]
    if report.comparison is not None:
        lines += [
            "| query type | measure | base | candidate | difference | 95 % interval | p |",
            "|---|---|---:|---:|---:|---|---:|",
        ]
        for row in report.comparison.rows:
            paired = row.paired
            cells = (
                ordinary(row.query_type),
                plain(row.measure) + (" (decides)" if row.primary else ""),
                shown(paired.base),
                shown(paired.candidate),
                signed(paired.difference),
                f"{signed(paired.low)} to {signed(paired.high)}",
                plain(p_value(row.p_corrected)),
            )
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    else:
        for query_type, alike in report.agreements:
            lines.append(f"- {ordinary(query_type)}: rank-biased overlap {shown(alike.rbo, 2)}")
        lines.append("")
    for one in report.sets:
        if one.comparison is None:
            lines.append(f"- {plain(one.name)}: {plain(one.sentence)}")
            continue
        row = one.comparison.primary
        lines.append(
            f"- {plain(one.name)}: **{one.comparison.verdict}**, {plain(row.measure)} "
            f"({ordinary(row.query_type)}) {shown(row.paired.base)} to "
            f"{shown(row.paired.candidate)}, {plain(one.sentence)}"
        )
    if report.sets:
        lines.append("")
    counts = report.run.counts
    lines.append(
        f"Run `{report.run.run_id}`: {count(counts.get('queries'))} queries, "
        f"{count(counts.get('pairs'))} pairs, {count(counts.get('reused'))} of them reused."
    )
    if report.run.lengths:
        lines.append(f"Longer than the model reads: {in_words(report.run.lengths[ALL])}.")
    if link is not None:
        lines += ["", f"[The whole report](<{link}>)"]
    return "\n".join(lines)


def markdown_of(values: Mapping[str, Any]) -> str:
    """The summary as Markdown: where the results are, and what reranking changed."""
    lines = [
        f"Run `{values['run_id']}`: results in table `{values['results_table']}`.",
        *(
            [f"For consumers: {published_line(values['consumers'])}."]
            if values["consumers"]
            else []
        ),
        "",
        *_measures(values["measures"]),
    ]
    for one in values["sets"]:
        judged = (
            "" if one["judgment_list"] is None else f", judged by {plain(one['judgment_list'])}"
        )
        lines += ["", f"### {plain(one['query_set'])}: {one['queries']:,} queries{judged}", ""]
        lines += _measures(one["measures"])
    if values["lengths"]:
        lines += ["", f"Longer than the model reads: {in_words(values['lengths'][ALL])}."]
    gates = values.get("gates")
    if gates is not None:
        outcome = "passed" if gates["passed"] else "FAILED"
        lines += ["", f"Gates {outcome}, against {gates['against']}.", ""]
        lines += [
            f"- {'ok' if c['passed'] else 'FAILED'}: {c['reason']}" for c in gates["conditions"]
        ]
        lines += ["", gates["sentence"] or ""]
    if values["report"] is not None:
        lines += ["", f"[The whole report](<{values['report']}>)"]
    return "\n".join(lines)


def _measures(measures: Sequence[Mapping[str, Any]]) -> list[str]:
    if not measures:
        return []
    lines = [
        "| query type | measure | first stage | reranked | change |",
        "|---|---|---|---|---|",
    ]
    for row in measures:
        lines.append(f"| {row['query_type']} | {row['measure']} | {' | '.join(cells(row))} |")
    return lines
