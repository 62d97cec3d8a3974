"""May a stored run go live? Its gates, checked against a promoted run or its own first stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reranking.evaluation.compare_run import FIRST, Compared, Party, compare_runs, party
from reranking.evaluation.comparison import Settings
from reranking.evaluation.evaluate_run import evaluate_run
from reranking.evaluation.gates import Gate, GateResult, check_gates, failed_reasons
from reranking.evaluation.summaries import summarise
from reranking.runs.promotion import promoted_run
from reranking.runs.run import Run
from reranking.store import Database


@dataclass(frozen=True)
class Gated:
    """Every condition's outcome; `compared` is None where there was no baseline to compare with."""

    against: str
    compared: Compared | None
    results: tuple[GateResult, ...]

    @property
    def reasons(self) -> list[str]:
        """Why the gates failed; empty if all passed."""
        failed = failed_reasons(self.results)
        if failed and self.compared is None:
            failed.append(
                f"no run is promoted as {self.against!r}: name one with "
                f"`rescore promote RUN_ID --as {self.against}`"
            )
        return failed

    def to_dict(self) -> dict[str, Any]:
        """The outcome as JSON-like values; the comparison without its per-query parts."""
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
                    "gate": asdict(result.gate),
                }
                for result in self.results
            ],
        }


def baseline(database: Database, plan: Run, against: str) -> Party | None:
    """The promoted run called `against`, the run's own first stage for `first`; None if neither."""
    if against == FIRST:
        return party(database, f"{plan.run_id}:{FIRST}")
    return party(database, against) if promoted_run(database, against) else None


def gate_run(
    database: Database,
    plan: Run,
    gates: Sequence[Gate],
    settings: Settings,
    *,
    against: str,
    judgment_list: str,
) -> Gated:
    """The outcome of the gates for a finished run.

    Without a promoted baseline, thresholds and min_judged are checked on the run alone, and what
    looks at a change fails.
    """
    base = baseline(database, plan, against)
    if base is None:
        measured = evaluate_run(database, plan, judgment_list, settings.measures).metrics
        return Gated(against, None, tuple(check_gates(gates, summary=summarise(measured))))
    compared = compare_runs(database, base, [party(database, plan.run_id)], judgment_list, settings)
    results = check_gates(gates, comparison=compared.comparisons[0], queries=compared.queries)
    return Gated(against, compared, tuple(results))
