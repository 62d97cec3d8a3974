"""May it go live? Asked of the data: what came in, what was found, what changed since last time.

Most pipelines have few judgments or none; these conditions need none. What looks at a change is
compared with the last accepted run of the pipeline: the newest one that no gate refused, or that
was published or promoted all the same. A first run has nothing to compare with, and passes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow.compute as pc

from configs.evaluation import DataGates
from configs.schema import Config
from reranking.arrow import frame
from reranking.evaluation.overlap import rankings_of, rankings_overlap
from reranking.runs.lengths import ALL, in_words, lengths_of
from reranking.runs.listing import done_runs, find_run
from reranking.runs.promotion import promoted_names
from reranking.runs.recall import recall_of
from reranking.runs.rows import REFUSED
from reranking.runs.run import Run
from reranking.runs.settings import pipeline_of_row
from reranking.steps import step

_TOP = 10


@dataclass(frozen=True)
class Checked:
    """One condition with its outcome."""

    condition: str
    passed: bool
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """The same in the words of the judged gates' conditions."""
        return {"metric": "data", "slice": None, "gate": None} | vars(self)


@step("check-data-gates")
def check_data(config: Config, run: Run, rejected: int) -> dict[str, Any] | None:
    """Return the outcome of the config's gates on data for a finished run; None if it has none.

    `rejected` rows were left out of the run's sources.
    """
    asked = config.data_gates
    if not asked.active:
        return None
    run = find_run(run.database, run.run_id)  # with its final counts
    last = _last_accepted(run)
    facts = _Facts(run, last, rejected)
    checked = [
        check(facts, limit)
        for name, check in _CHECKS.items()
        if (limit := getattr(asked, name)) is not None
    ]
    reasons = [c.reason for c in checked if not c.passed]
    return {
        "against": "nothing" if last is None else last.run_id[:8],
        "passed": not reasons,
        "reasons": reasons,
        "conditions": [c.as_dict() for c in checked],
    }


def check_recall(config: Config, run: Run) -> dict[str, Any] | None:
    """Return the outcome of `search.min_recall`; None if the run's vectors were searched exactly.

    Where a config has no gates, it is one only for an index that finds too little.
    """
    least, recall = config.search.min_recall, recall_of(run.database, run.search_id)
    if least is None or recall is None:
        return None
    passed = recall.recall >= least
    if passed and not config.gated:
        return None
    reason = f"the vector index finds {recall}; search.min_recall is {least:g}"
    if not passed:
        reason += (
            ". Nothing that is open to rescore makes it find more: give another "
            "documents.vector_index (auto falls back on exact search), set "
            "search.bypass_vector_index, or lower search.min_recall"
        )
    condition = Checked("min_recall", passed, reason)
    return {
        "against": "exact search",
        "passed": passed,
        "reasons": [] if passed else [reason],
        "conditions": [condition.as_dict()],
    }


def both(judged: dict[str, Any] | None, data: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return one outcome of judged gates and gates on data, either of which may be None."""
    if judged is None or data is None:
        return judged or (None if data is None else {"sentence": None, "verdict": None} | data)
    return judged | {
        "passed": judged["passed"] and data["passed"],
        "reasons": [*judged["reasons"], *data["reasons"]],
        "conditions": [*judged["conditions"], *data["conditions"]],
    }


@dataclass(frozen=True)
class _Facts:
    run: Run
    last: Run | None
    rejected: int

    @property
    def since(self) -> str:
        """Whom a change is measured against."""
        return "" if self.last is None else f"run {self.last.run_id[:8]}"


def _rejected(facts: _Facts, limit: float) -> Checked:
    reason = f"{facts.rejected:,} rows are rejected, at most {limit:,} may be"
    return Checked("max_rejected", facts.rejected <= limit, reason)


def _documents(facts: _Facts, limit: float) -> Checked:
    name = "max_documents_change"
    if facts.last is None:
        return _first(name)
    before, now = (_count(run) for run in (facts.last, facts.run))
    change = abs(now - before) / max(before, 1)
    reason = (
        f"{now:,} documents, {before:,} in {facts.since}: a change of {change:.1%}, at most "
        f"{limit:.1%} may be"
    )
    return Checked(name, change <= limit, reason)


def _without_hits(facts: _Facts, limit: float) -> Checked:
    count = facts.run.queries.count
    lost = int(facts.run.stored["counts"].get("queries_without_hits", 0))
    share = lost / max(count, 1)
    reason = f"{lost:,} of {count:,} queries found nothing ({share:.1%}), at most {limit:.1%} may"
    return Checked("max_without_hits", share <= limit, reason)


def _top_changed(facts: _Facts, limit: float) -> Checked:
    """The mean over the queries that both have in the same words; the query type that moved most"""
    name = "max_top10_change"
    if facts.last is None:
        return _first(name)
    now, before = facts.run.results(), facts.last.results()
    own, other = (
        frame(run.query_rows.select(["query_id", "text_hash"])) for run in (facts.run, facts.last)
    )
    shared = own.join(other, on=["query_id", "text_hash"], how="semi")["query_id"].to_list()
    types = [t for t in facts.run.search.query_types if t in facts.last.search.query_types]
    if not shared or not types:
        return Checked(name, True, f"no query and query type is shared with {facts.since}")
    worst, which = 0.0, types[0]
    for kind in types:
        one, two = (
            rankings_of(table.filter(pc.equal(table["query_type"], kind)))
            for table in (before, now)
        )
        overlap = rankings_overlap(one, two, shared, k=_TOP).overlap
        if overlap is not None and 1 - overlap > worst:
            worst, which = 1 - overlap, kind
    reason = (
        f"{worst:.1%} of the top 10 of {which} search differ from {facts.since} over "
        f"{len(shared):,} queries, at most {limit:.1%} may"
    )
    return Checked(name, worst <= limit, reason)


def _drift(facts: _Facts, limit: float) -> Checked:
    """How far the mean score of the top 10 moved, in standard deviations of the last run's."""
    name = "max_score_drift"
    if facts.last is None:
        return _first(name)
    scales = [(r.reranker, r.activation, r.blend) for r in (facts.run, facts.last)]
    if facts.run.reranker is None or scales[0] != scales[1]:
        why = "another reranker, activation or blend: two scales are not compared"
        return Checked(name, True, f"{facts.since} has {why}")
    types = [t for t in facts.run.search.query_types if t in facts.last.search.query_types]
    worst, which = 0.0, ""
    for kind in types:
        before, now = (_top_scores(run, kind) for run in (facts.last, facts.run))
        if len(before) and len(now):
            spread = float(np.std(before)) or 1e-9
            moved = abs(float(np.mean(now)) - float(np.mean(before))) / spread
            if moved >= worst:
                worst, which = moved, kind
    reason = (
        f"the mean score of the top 10 of {which} search moved by {worst:.2f} standard "
        f"deviations since {facts.since}, at most {limit:g} may be"
    )
    return Checked(name, worst <= limit, reason)


def _truncated(facts: _Facts, limit: float) -> Checked:
    lengths = lengths_of(facts.run.stored["counts"], ())
    share = None if lengths is None else lengths[ALL]["share"]
    if lengths is None or share is None:
        return Checked("max_truncated", True, "how long the pairs are is not known")
    reason = (
        f"longer than the reranker reads are {in_words(lengths[ALL])}; at most {limit:.1%} may be"
    )
    return Checked("max_truncated", share <= limit, reason)


_CHECKS: dict[str, Callable[[_Facts, float], Checked]] = {
    "max_rejected": _rejected,
    "max_documents_change": _documents,
    "max_without_hits": _without_hits,
    "max_top10_change": _top_changed,
    "max_score_drift": _drift,
    "max_truncated": _truncated,
}
assert set(_CHECKS) == set(DataGates.model_fields)


def _first(condition: str) -> Checked:
    return Checked(condition, True, "the first run has nothing to be compared with")


def _count(run: Run) -> int:
    stored = run.stored["counts"].get("documents")
    return run.corpus.opened(run.database).count_rows() if stored is None else int(stored)


def _top_scores(run: Run, kind: str) -> np.ndarray:
    table = frame(run.results().select(["query_type", "rank", "_relevance_score"]))
    top = table.filter((pl.col("query_type") == kind) & (pl.col("rank") <= _TOP))
    return top["_relevance_score"].to_numpy()


def _last_accepted(run: Run) -> Run | None:
    """Return the newest run of the run's pipeline that was not refused; None if none is.

    It may be the run itself, if that was accepted before: then nothing changed.
    """
    names = promoted_names(run.database)
    for other in done_runs(run.database, pipeline_of_row(run.stored)):
        if not other.stored["counts"].get(REFUSED) or other.run_id in names:
            return other
    return None
