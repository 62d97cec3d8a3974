"""What a run did, gathered step by step, for people and machines."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from configs.schema import Config
from reranking.progress import duration
from reranking.runs.lengths import lengths_of
from reranking.runs.rates import scoring_rate
from reranking.runs.recall import recall_of
from reranking.runs.refine import REFINED
from reranking.runs.run import Run

log = logging.getLogger(__name__)


class Summary:
    """Counts, seconds per stage and measures of one run."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.seconds: dict[str, float] = {}
        self.counts: dict[str, Any] = {"pairs": 0, "scored": 0, "path": None}
        self.run: Run | None = None
        self.finished_before = False
        self.rejects = 0
        self.documents: dict[str, Any] = {}
        self.measures: list[dict[str, Any]] = []
        self.unknown: dict[str, Any] | None = None
        self.sets: list[dict[str, Any]] = []
        self.gates: dict[str, Any] | None = None
        self.report: dict[str, str] | None = None
        self.encoded = 0
        self.comparison: dict[str, Any] | None = None
        self.refined: list[dict[str, Any]] = []
        self.served_as: dict[str, Any] | None = None

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the seconds of the block to the stage, and say both in the log."""
        started = time.monotonic()
        log.info("%s: begun", stage)
        try:
            yield
        finally:
            seconds = time.monotonic() - started
            self._took(stage, seconds)
            log.info("%s: ended after %s", stage, duration(seconds))

    def _took(self, stage: str, seconds: float) -> None:
        self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds

    def ingested(self, report: Mapping[str, Any]) -> None:
        """Take in what the ingest did."""
        self.documents = dict(report)
        self.rejected(report.get("rejected", 0))

    def rejected(self, rows: int) -> None:
        """Take in rejected rows."""
        self.rejects += rows

    def worked(self, report: Mapping[str, Any]) -> None:
        """Take in a chunk; seconds of scoring are split into the model's and the rest.

        Where several workers are busy at once their seconds add up.
        """
        self._took("search", report["search"])
        self.counts["pairs"] += report["pairs"]
        self.counts["scored"] += report["scored"]
        self.counts["path"] = report["path"] or self.counts["path"]
        if report["refined"] is not None:
            self.refined.append(report["refined"])
        self._took("score", report["forward"])
        self._took("lookup", report["seconds"] - report["forward"])

    def begun_again(self) -> None:
        """Let go of the counts of chunks that are worked on again; what was scored stays scored."""
        self.counts["pairs"] = 0
        self.refined.clear()

    def published(self, run: Run, counts: Mapping[str, float]) -> None:
        """Take in the published run."""
        self.run = run
        self.counts |= counts

    def repeated(self, run: Run, counts: Mapping[str, float]) -> None:
        """Take in a run that was finished already."""
        self.run, self.finished_before = run, True
        self.counts |= counts

    def evaluated(self, report: Mapping[str, Any]) -> None:
        """Take in the means of the measures, and what is judged that the run does not know."""
        self.measures, self.unknown = report["measures"], report["unknown"]
        self.sets = report["sets"]

    def gated(self, outcome: dict[str, Any] | None) -> None:
        """Take in the outcome of the gates."""
        self.gates = outcome

    def reported(self, report: dict[str, str] | None) -> None:
        """Take in where the report is, and what it says in short."""
        self.report = report

    def served(self, published: dict[str, Any] | None) -> None:
        """Take in what the table for consumers holds now."""
        self.served_as = published

    def _saved(self, reused: int, rate: float | None) -> float | None:
        """Seconds that the reused pairs would have taken; None where no run tells how fast."""
        assert self.run is not None
        if rate is None and self.run.reranker is not None:
            rate = scoring_rate(self.run.database, self.run.reranker)
        return round(reused / rate, 1) if rate else None

    def as_dict(self) -> dict[str, Any]:
        """The summary as JSON-like values: what `--json` prints."""
        assert self.run is not None
        scoring = self.seconds.get("score", 0.0)
        scored = self.counts["scored"]
        reused = self.counts["pairs"] - scored
        passes = scored + self.counts.get("refine_scored", 0)
        rate = round(passes / scoring, 1) if passes and scoring else None
        recall = recall_of(self.run.database, self.run.search_id)
        return {
            "run_id": self.run.run_id,
            "status": "done",
            "computed": not self.finished_before,
            "results_table": self.run.results_table,
            "published": None if self.served_as is None else self.served_as["table"],
            "consumers": self.served_as,
            "query_types": list(self.run.search.query_types),
            "queries": self.run.queries.count,
            "queries_without_hits": self.counts.get("queries_without_hits", 0),
            "pairs": self.counts["pairs"],
            "scored": scored,
            "reused": reused,
            "seconds_saved": self._saved(reused, rate),
            "lengths": lengths_of(self.counts, self.run.search.query_types),
            "rejected": self.rejects,
            "documents": self.documents,
            "seconds": {stage: round(s, 3) for stage, s in self.seconds.items()},
            "pairs_per_second": rate,
            "score_path": self.counts["path"],
            "recall": None if recall is None else recall.to_dict(),
            "refined": {k: v for k, v in self.counts.items() if k in REFINED} or None,
            "measures": self.measures,
            "unknown": self.unknown,
            "query_set": self.run.queries.name,
            "sets": self.sets,
            "gates": self.gates,
            "report": None if self.report is None else self.report["link"],
        }

    def reevaluation(self) -> dict[str, Any]:
        """The summary of another model's run: also what was encoded, and the comparison."""
        return self.as_dict() | {"encoded": self.encoded, "comparison": self.comparison}
