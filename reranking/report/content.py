"""What a report says, as plain values: `collect` fills them from a database, `page` shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from configs.evaluation import ComparisonSettings
from reranking.evaluation.comparison import Comparison
from reranking.evaluation.overlap import Overlap
from reranking.evaluation.statistics import Paired
from reranking.evaluation.sweep.run_sweep import Sweep
from reranking.evaluation.unknown import Unknown
from reranking.labelling.calibration import Calibration, Uncalibrated
from reranking.runs.lengths import lengths_of


@dataclass(frozen=True)
class RunFacts:
    """One run: what it cost, and `provenance`, what it was made from."""

    run_id: str
    model: str | None
    query_set: str
    query_types: tuple[str, ...]
    started_at: datetime
    finished_at: datetime | None
    counts: Mapping[str, int]
    seconds: Mapping[str, float]
    score_path: str | None
    provenance: Mapping[str, str]
    config: str

    @property
    def short(self) -> str:
        """The first eight digits of the id: what people type."""
        return self.run_id[:8]

    @property
    def lengths(self) -> Mapping[str, Mapping[str, Any]] | None:
        """Pairs that are longer than the model reads, of all and by query type."""
        return lengths_of(self.counts, self.query_types)

    @property
    def pairs_per_second(self) -> float | None:
        """Pairs scored per second of the model's time; None if nothing was scored."""
        scored, seconds = self.counts.get("scored", 0), self.seconds.get("score", 0.0)
        return scored / seconds if scored and seconds else None


@dataclass(frozen=True)
class Group:
    """One kind of pairs in a histogram; `median` is None if there is no such pair."""

    name: str
    counts: tuple[int, ...]
    median: float | None

    @property
    def total(self) -> int:
        """How many pairs there are of this kind."""
        return sum(self.counts)


@dataclass(frozen=True)
class Distribution:
    """Raw logits of one query type's candidates: `edges` has one number more than the counts."""

    query_type: str
    edges: tuple[float, ...]
    groups: tuple[Group, ...]


@dataclass(frozen=True)
class SliceRow:
    """The primary measure on the queries of one tag or length."""

    kind: str
    name: str
    paired: Paired


@dataclass(frozen=True)
class HistoryPoint:
    """The mean of a measure in one run; a mean is None if the run has no such stage."""

    run_id: str
    at: datetime
    first: float | None
    reranked: float | None
    queries: int
    changed: tuple[str, ...] = ()  # what was set otherwise than for the run before


@dataclass(frozen=True)
class History:
    """One measure over the runs of a pipeline, oldest first; `judged_alike`: on equal grades."""

    measure: str
    query_type: str
    points: tuple[HistoryPoint, ...]
    judged_alike: bool


@dataclass(frozen=True)
class ShownDocument:
    """A document in the rankings of a query; `reason` says in words how it moved."""

    doc_id: str
    text: str
    grade: int | None
    base_rank: int | None
    candidate_rank: int | None
    reason: str


@dataclass(frozen=True)
class ShownQuery:
    """A query whose ranking changed: the values of the measure, or None without judgments.

    `rbo` is the rank-biased overlap of its two rankings.
    """

    query_id: str
    text: str
    tags: tuple[str, ...]
    base: float | None
    candidate: float | None
    rbo: float
    documents: tuple[ShownDocument, ...]

    @property
    def difference(self) -> float | None:
        """Candidate minus base."""
        return None if self.base is None or self.candidate is None else self.candidate - self.base


@dataclass(frozen=True)
class LabelEvidence:
    """A label set made from the run: how many labels it gives, and how sure they are."""

    label_set: str
    rule: str
    labels: Mapping[str, int]
    calibration: Calibration | Uncalibrated


@dataclass(frozen=True)
class Contrast:
    """What is compared with what, in names that a sentence can use."""

    base: str
    candidate: str
    own_first_stage: bool


@dataclass(frozen=True)
class SetResult:
    """What came out on the queries of one query set; `comparison` is None without judgments."""

    name: str
    queries: int
    judgment_list: str | None
    sentence: str
    comparison: Comparison | None


@dataclass(frozen=True)
class Report:
    """A whole report. Without judgments `comparison` is None and `agreements` is all there is.

    `differing` lists the inputs that differ between two runs: what, the base's, the run's.
    """

    made_at: datetime
    version: str
    run: RunFacts
    against: RunFacts | None
    contrast: Contrast | None
    differing: tuple[tuple[str, str, str], ...]
    judgment_list: str | None
    unknown: Unknown | None
    judged_pairs: int
    rules: ComparisonSettings
    comparison: Comparison | None
    agreements: tuple[tuple[str, Overlap], ...]
    per_query: tuple[tuple[str, float], ...]
    slices: tuple[SliceRow, ...]
    slices_left_out: int
    moved: tuple[ShownQuery, ...]
    moved_in_all: int
    shown_ranks: int
    distributions: tuple[Distribution, ...]
    history: History | None
    labels: tuple[LabelEvidence, ...]
    sets: tuple[SetResult, ...] = ()
    sweep: Sweep | None = None
