"""What a run did, as a file for Prometheus' textfile collector."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reranking.files import write_text

_LAST_SUCCESS = "rescore_last_success_timestamp_seconds"
_STATES = ("done", "refused", "to be continued", "failed")
_HELP = {
    "rescore_last_run": "1 for how the last run ended",
    "rescore_last_run_timestamp_seconds": "when the last run ended",
    _LAST_SUCCESS: "when a run last ended well, its gates passed",
    "rescore_pairs": "pairs of the last finished run",
    "rescore_pairs_scored": "pairs that it scored",
    "rescore_pairs_reused": "pairs whose scores were stored",
    "rescore_pairs_per_second": "speed of scoring",
    "rescore_rejected_rows": "rows of its sources that were rejected",
    "rescore_queries": "queries",
    "rescore_queries_without_hits": "queries that found nothing",
    "rescore_gates_failed": "conditions that refused it",
    "rescore_stage_seconds": "seconds per stage",
    "rescore_measure": "mean of a measure",
    "rescore_primary_measure": "mean of the measure that decides, of the last stage",
}


def write_metrics(
    file: Path,
    pipeline: str,
    state: str,
    values: Mapping[str, Any] | None,
    primary: tuple[str, str | None],
) -> None:
    """Write the file whole; `values` are a summary's, None for a run that has none.

    `primary` is the measure and the query type that decide. The last success is kept from the file
    as it was.
    """
    now = time.time()
    rows: list[tuple[str, dict[str, str], float]] = [
        ("rescore_last_run", {"state": one}, float(one == state)) for one in _STATES
    ]
    rows.append(("rescore_last_run_timestamp_seconds", {}, now))
    success = now if state == "done" else _known_success(file)
    if success is not None:
        rows.append((_LAST_SUCCESS, {}, success))
    if values is not None:
        rows += _of_summary(values, primary)
    lines: list[str] = []
    for name, text in _HELP.items():
        own = [(labels, value) for of, labels, value in rows if of == name]
        if own:
            lines += [f"# HELP {name} {text}\n", f"# TYPE {name} gauge\n"]
            lines += [f"{name}{_labels({'pipeline': pipeline} | ls)} {v:.10g}\n" for ls, v in own]
    write_text(file, lines)


def _of_summary(
    values: Mapping[str, Any], primary: tuple[str, str | None]
) -> Iterator[tuple[str, dict[str, str], float]]:
    sets = values["sets"]
    whole = {"query_set": values["query_set"]} if sets else {}
    yield "rescore_pairs", {}, values["pairs"]
    yield "rescore_queries_without_hits", {}, values["queries_without_hits"]
    for labels, part in [(whole, values), *(({"query_set": s["query_set"]}, s) for s in sets)]:
        yield "rescore_queries", labels, part["queries"]
        yield "rescore_gates_failed", labels, _failed(values, part.get("query_set"), whole)
        yield from _measures(part["measures"], labels, values["query_types"], primary)
    yield "rescore_pairs_scored", {}, values["scored"]
    yield "rescore_pairs_reused", {}, values["reused"]
    yield "rescore_rejected_rows", {}, values["rejected"]
    if values["pairs_per_second"] is not None:
        yield "rescore_pairs_per_second", {}, values["pairs_per_second"]
    for stage, seconds in values["seconds"].items():
        yield "rescore_stage_seconds", {"stage": stage}, seconds


def _failed(values: Mapping[str, Any], query_set: str | None, whole: Mapping[str, str]) -> int:
    """How many conditions failed: of the whole run, where sets are told apart of one alone."""
    gates = values["gates"]
    failed = [] if gates is None else [c for c in gates["conditions"] if not c["passed"]]
    if whole and query_set != whole["query_set"]:
        failed = [c for c in failed if c.get("query_set") == query_set]
    return len(failed)


def _measures(
    measures: Sequence[Mapping[str, Any]],
    given: Mapping[str, str],
    types: Sequence[str],
    primary: tuple[str, str | None],
) -> Iterator[tuple[str, dict[str, str], float]]:
    decides = primary[1] or ("hybrid" if "hybrid" in types else types[0])
    for row in measures:
        labels = {**given, "measure": row["measure"], "query_type": row["query_type"]}
        for stage in ("first", "reranked"):
            if row[stage] is not None:
                yield "rescore_measure", labels | {"stage": stage}, row[stage]
        if (row["measure"], row["query_type"]) == (primary[0], decides):
            last = row["first"] if row["reranked"] is None else row["reranked"]
            yield "rescore_primary_measure", labels, last


def _labels(labels: Mapping[str, str]) -> str:
    def escaped(text: str) -> str:
        return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

    return "{" + ",".join(f'{name}="{escaped(value)}"' for name, value in labels.items()) + "}"


def _known_success(file: Path) -> float | None:
    try:
        known = re.search(rf"^{_LAST_SUCCESS}\{{.*\}} (\S+)$", file.read_text("utf-8"), re.M)
    except (OSError, UnicodeDecodeError):
        return None
    return None if known is None else float(known[1])
