"""May it go live? Gates in MLflow's words, answered with every reason why not.

A condition that cannot be checked fails: a gate without a baseline, without the metric, or without
a single comparable query never passes by default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from configs.evaluation import Gate
from reranking.arrow import frame
from reranking.evaluation.comparison import Comparison, Row
from reranking.evaluation.measures import parse_measures
from reranking.evaluation.run_comparison import Compared, Comparisons
from reranking.evaluation.run_measures import evaluate_run
from reranking.evaluation.sides import FIRST, own_first_stage, promoted_side
from reranking.evaluation.statistics import corrected, randomisation_p
from reranking.evaluation.summaries import MIN_SLICE, query_slices, summarise

ALL_SLICES: Final = "*"
_ROUNDING: Final = 1e-12


@dataclass(frozen=True)
class GateResult:
    """One condition of one gate, in one slice (None: all queries), with its outcome."""

    gate: Gate
    condition: str
    slice: str | None
    passed: bool
    reason: str


@dataclass(frozen=True)
class _Facts:
    """What the conditions look at: one row of a comparison, whole or cut to a slice."""

    queries: int
    candidate: float
    base: float | None
    p: float | None
    judged: float | None
    regressed: int | None


@dataclass(frozen=True)
class Gated:
    """Every condition's outcome; `compared` is None if there was no baseline to compare with."""

    against: str
    compared: Compared | None
    results: tuple[GateResult, ...]

    @property
    def reasons(self) -> list[str]:
        """Return why the gates failed, one sentence per failed condition; empty if all passed."""
        failed = [result.reason for result in self.results if not result.passed]
        unchecked = any(not r.passed and r.condition == "checked" for r in self.results)
        if unchecked and self.compared is None:
            failed.append(
                f"no run is promoted as {self.against!r}: name one with "
                f"`rescore promote RUN_ID --as {self.against}`"
            )
        return failed

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as JSON-like values; the comparison without its per-query parts."""
        compared = self.compared
        return {
            "against": self.against if compared is None else compared.base.name,
            "sentence": None if compared is None else compared.sentence(0),
            "verdict": None if compared is None else compared.comparisons[0].verdict,
            "passed": not self.reasons,
            "reasons": self.reasons,
            "conditions": [
                {
                    "metric": result.gate.metric,
                    "condition": result.condition,
                    "slice": result.slice,
                    "passed": result.passed,
                    "reason": result.reason,
                    "gate": result.gate.model_dump(),
                }
                for result in self.results
            ],
        }


def check_gates(
    gates: Sequence[Gate],
    *,
    comparison: Comparison | None = None,
    summary: pa.Table | None = None,
    queries: pa.Table | None = None,
) -> list[GateResult]:
    """Return the outcome of every condition of `gates`.

    With a `comparison`, all conditions are checked on it; without one, `summary` (see `summarise`)
    serves thresholds and min_judged, on the reranked stage if there is one. `queries` (query_id,
    text, tags) is needed for slices.
    """
    results: list[GateResult] = []
    for asked in gates:
        gate = asked.model_copy(update={"metric": str(parse_measures([asked.metric])[0])})
        if comparison is not None:
            results.extend(_on_comparison(gate, comparison, queries))
        else:
            results.extend(_on_summary(gate, summary))
    return results


def gate_run(
    comparisons: Comparisons, gates: Sequence[Gate], *, against: str, judgment_list: str
) -> Gated:
    """Return the outcome of the gates for a finished run, against the promoted run `against`.

    `first` is the run's own first stage. Without a promoted baseline, thresholds and min_judged are
    checked on the run alone, and what looks at a change fails.
    """
    run = comparisons.side.run
    base = own_first_stage(run) if against == FIRST else promoted_side(run.database, against)
    if base is None:
        metrics = evaluate_run(
            run,
            judgment_list,
            comparisons.measures,
            ignore_identical_ids=comparisons.ignore_identical_ids,
        ).metrics
        return Gated(against, None, tuple(check_gates(gates, summary=summarise(metrics))))
    compared = comparisons.against(base)
    results = check_gates(gates, comparison=compared.comparisons[0], queries=compared.queries)
    return Gated(against, compared, tuple(results))


def _on_comparison(
    gate: Gate, comparison: Comparison, queries: pa.Table | None
) -> Iterator[GateResult]:
    row = _row(gate, comparison)
    if row is None:
        names = sorted({f"{r.measure} ({r.query_type})" for r in comparison.rows})
        yield _unchecked(gate, f"it was not measured, only {', '.join(names)}")
        return
    paired = row.paired
    if paired.candidate is None or row.judged_base is None or row.judged_candidate is None:
        yield _unchecked(gate, "no query could be compared")
        return
    worse = paired.losses if gate.greater_is_better else paired.wins
    judged = min(row.judged_base, row.judged_candidate)
    facts = _Facts(paired.queries, paired.candidate, paired.base, row.p_corrected, judged, worse)
    yield from _conditions(gate, facts, None)
    if gate.slices:
        yield from _on_slices(gate, row, comparison, queries)


def _row(gate: Gate, comparison: Comparison) -> Row | None:
    query_type = gate.query_type or comparison.primary.query_type
    wanted = (query_type, gate.metric)
    return next((r for r in comparison.rows if (r.query_type, r.measure) == wanted), None)


def _on_slices(
    gate: Gate, row: Row, comparison: Comparison, queries: pa.Table | None
) -> Iterator[GateResult]:
    if queries is None:
        yield _unchecked(gate, "its slices need the query set")
        return
    values = frame(comparison.per_query).filter(query_type=row.query_type, measure=row.measure)
    parts = values.join(query_slices(queries), on="query_id").partition_by(
        "kind", "slice", as_dict=True, maintain_order=True
    )
    by_name = {f"{kind}:{name}": part for (kind, name), part in parts.items()}
    chosen = [name for name in gate.slices if name != ALL_SLICES]
    if ALL_SLICES in gate.slices:
        chosen += sorted(n for n, p in by_name.items() if p.height >= MIN_SLICE)
    chosen = list(dict.fromkeys(chosen))
    for name in chosen:
        if name not in by_name:
            yield _unchecked(gate, f"no compared query is in the slice {name}")
    named = [(name, by_name[name]) for name in chosen if name in by_name]
    p_values = [randomisation_p(part["difference"].to_numpy()) or 0.0 for _, part in named]
    for (name, part), p in zip(named, corrected(p_values), strict=True):
        base, candidate = (float(np.mean(part[c].to_numpy())) for c in ("base", "candidate"))
        yield from _conditions(gate, _Facts(part.height, candidate, base, p, None, None), name)


def _on_summary(gate: Gate, summary: pa.Table | None) -> Iterator[GateResult]:
    if gate.needs_baseline or gate.slices:
        yield _unchecked(gate, "changes and slices need a baseline: promote a run first")
        return
    rows = [] if summary is None else _summary_rows(summary, gate.query_type)
    means = {r["measure"]: (r["mean"], r["queries"]) for r in rows}
    if gate.metric not in means:
        yield _unchecked(gate, f"it was not measured, only {', '.join(sorted(means)) or 'nothing'}")
        return
    cutoff = parse_measures([gate.metric])[0].params.get("cutoff", 10)
    judged = means.get(f"Judged@{cutoff}", (None, 0))[0]
    if gate.min_judged is not None and judged is None:
        yield _unchecked(gate, f"Judged@{cutoff} was not measured")
    mean, count = means[gate.metric]
    yield from _conditions(gate, _Facts(count, mean, None, None, judged, None), None)


def _summary_rows(summary: pa.Table, query_type: str | None) -> list[dict[str, Any]]:
    """The rows of one query type (hybrid, or the only one) and of the last stage."""
    types = pc.unique(summary["query_type"]).to_pylist()
    wanted = query_type or (types[0] if len(types) == 1 else "hybrid")
    stages = pc.unique(summary["stage"]).to_pylist()
    stage = "reranked" if "reranked" in stages else "first"
    rows: list[dict[str, Any]] = frame(summary).filter(query_type=wanted, stage=stage).to_dicts()
    return rows


def _unchecked(gate: Gate, why: str) -> GateResult:
    return GateResult(gate, "checked", None, False, f"{gate.metric} could not be gated: {why}")


def _conditions(gate: Gate, facts: _Facts, part: str | None) -> Iterator[GateResult]:
    """One result per condition that the gate gives and that applies to `part`."""
    where = f"{gate.metric}" if part is None else f"{gate.metric} in {part}"
    for name, check in _CHECKS.items():
        outcome = check(gate, facts)
        if outcome is not None:
            passed, reason = outcome
            yield GateResult(
                gate, name, part, passed, f"{where} {reason} ({facts.queries} queries)"
            )


Outcome = tuple[bool, str] | None


def _threshold(gate: Gate, facts: _Facts) -> Outcome:
    if gate.threshold is None:
        return None
    sign = 1 if gate.greater_is_better else -1
    passed = sign * (facts.candidate - gate.threshold) >= -_ROUNDING
    limit = "least" if gate.greater_is_better else "most"
    return passed, f"is {facts.candidate:.4f}, must be at {limit} {gate.threshold:g}"


def _gain(gate: Gate, facts: _Facts) -> float | None:
    if facts.base is None:
        return None
    return (facts.candidate - facts.base) * (1 if gate.greater_is_better else -1)


def _absolute(gate: Gate, facts: _Facts) -> Outcome:
    gain = _gain(gate, facts)
    if gate.min_absolute_change is None or gain is None:
        return None
    passed = gain >= gate.min_absolute_change - _ROUNDING
    return passed, f"gained {gain:+.4f}, must gain at least {gate.min_absolute_change:+g}"


def _relative(gate: Gate, facts: _Facts) -> Outcome:
    gain = _gain(gate, facts)
    if gate.min_relative_change is None or gain is None or facts.base is None:
        return None
    if facts.base == 0:  # no relative change exists; any gain is infinitely large
        passed = gain > 0 if gate.min_relative_change > 0 else gain >= 0
        return passed, f"gained {gain:+.4f} over a baseline of 0"
    relative = gain / abs(facts.base)
    passed = relative >= gate.min_relative_change - _ROUNDING
    return passed, f"gained {relative:+.2%}, must gain at least {gate.min_relative_change:+.2%}"


def _significant(gate: Gate, facts: _Facts) -> Outcome:
    gain = _gain(gate, facts)
    if gate.alpha is None or gain is None or facts.p is None:
        return None
    significant = facts.p < gate.alpha
    if max(gate.min_absolute_change or 0.0, gate.min_relative_change or 0.0) > 0:
        return (
            significant and gain > 0,
            f"gained {gain:+.4f}, must be significant: p = {facts.p:.4g}",
        )
    return not (significant and gain < 0), f"changed by {gain:+.4f}, p = {facts.p:.4g}"


def _judged(gate: Gate, facts: _Facts) -> Outcome:
    if gate.min_judged is None or facts.judged is None:
        return None
    passed = facts.judged >= gate.min_judged - _ROUNDING
    return passed, f"rests on {facts.judged:.1%} judged, must be at least {gate.min_judged:.1%}"


def _regressed(gate: Gate, facts: _Facts) -> Outcome:
    if gate.max_regressed_queries is None or facts.regressed is None:
        return None
    passed = facts.regressed <= gate.max_regressed_queries
    return passed, (
        f"became worse on {facts.regressed} queries, at most {gate.max_regressed_queries} may"
    )


_CHECKS: Final[dict[str, Callable[[Gate, _Facts], Outcome]]] = {
    "threshold": _threshold,
    "min_absolute_change": _absolute,
    "min_relative_change": _relative,
    "alpha": _significant,
    "min_judged": _judged,
    "max_regressed_queries": _regressed,
}
