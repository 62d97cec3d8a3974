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

from reranking.errors import ConfigError
from reranking.evaluation.comparison import Comparison, Row
from reranking.evaluation.measures import parse_measures
from reranking.evaluation.sides import frame
from reranking.evaluation.statistics import corrected, randomisation_p
from reranking.evaluation.summaries import query_slices

ALL_SLICES: Final = "*"
MIN_SLICE: Final = 5  # queries; smaller slices are noise, `*` skips them
_ROUNDING: Final = 1e-12


@dataclass(frozen=True)
class Gate:
    """What `metric` must fulfil; every condition that is given must hold.

    `threshold`: the candidate's mean is at least this (at most, if not `greater_is_better`).
    `min_absolute_change`, `min_relative_change`: its gain over the baseline is at least this;
    a negative number tolerates a loss. `alpha`: a gain asked for must be significant, and
    otherwise a significant loss fails (p-values corrected as in the comparison, or by Holm over
    the slices). `min_judged`: Judged@k of both sides is at least this.
    `max_regressed_queries`: so many queries may become worse. `slices`: the conditions on means
    and changes hold in each of these, too: `tag:NAME`, `length:3-5 words`, or `*` for all
    with at least five queries.
    """

    metric: str
    threshold: float | None = None
    min_absolute_change: float | None = None
    min_relative_change: float | None = None
    greater_is_better: bool = True
    alpha: float | None = None
    min_judged: float | None = None
    max_regressed_queries: int | None = None
    slices: tuple[str, ...] = ()
    query_type: str | None = None

    def __post_init__(self) -> None:
        """Raises ConfigError for a gate that asks for nothing or for the impossible."""
        object.__setattr__(self, "metric", str(parse_measures([self.metric])[0]))
        asked = (self.threshold, self.min_judged, self.max_regressed_queries, self.alpha)
        if all(c is None for c in (*asked, self.min_absolute_change, self.min_relative_change)):
            raise ConfigError(
                f"the gate on {self.metric} has no condition: give threshold, "
                "min_absolute_change, min_relative_change, alpha, min_judged or "
                "max_regressed_queries"
            )
        for name, share in (("alpha", self.alpha), ("min_judged", self.min_judged)):
            if share is not None and not 0 <= share <= 1:
                raise ConfigError(f"{name} of the gate on {self.metric} is {share}, not in 0..1")

    @property
    def needs_baseline(self) -> bool:
        """Whether a condition looks at a change."""
        changes = (self.min_absolute_change, self.min_relative_change, self.alpha)
        return any(c is not None for c in (*changes, self.max_regressed_queries))


@dataclass(frozen=True)
class GateResult:
    """One condition of one gate, in one slice (None: all queries), with what was found."""

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


def check_gates(
    gates: Sequence[Gate],
    *,
    comparison: Comparison | None = None,
    summary: pa.Table | None = None,
    queries: pa.Table | None = None,
) -> list[GateResult]:
    """The outcome of every condition of `gates`.

    With a `comparison`, all conditions are checked on it; without one, `summary` (see `summarise`)
    serves thresholds and min_judged, on the reranked stage if there is one. `queries` (query_id,
    text, tags) is needed for slices.
    """
    results: list[GateResult] = []
    for gate in gates:
        if comparison is not None:
            results.extend(_on_comparison(gate, comparison, queries))
        else:
            results.extend(_on_summary(gate, summary))
    return results


def failed_reasons(results: Sequence[GateResult]) -> list[str]:
    """Why the gates failed, one sentence per failed condition; empty if all passed."""
    return [result.reason for result in results if not result.passed]


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
    found = (r for r in comparison.rows if (r.query_type, r.measure) == (query_type, gate.metric))
    return next(found, None)


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
            passed, said = outcome
            yield GateResult(gate, name, part, passed, f"{where} {said} ({facts.queries} queries)")


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
    found = facts.p < gate.alpha
    if max(gate.min_absolute_change or 0.0, gate.min_relative_change or 0.0) > 0:
        return found and gain > 0, f"gained {gain:+.4f}, must be significant: p = {facts.p:.4g}"
    return not (found and gain < 0), f"changed by {gain:+.4f}, p = {facts.p:.4g}"


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
