"""What results are measured on, compared with, and refused by."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field, field_validator, model_validator

from configs.part import Name, Part, QueryType
from configs.source import Source, readable

DEFAULT_MEASURES: Final = ("nDCG@10", "RR@10", "R@20")


class Judgments(Part):
    judgment_list: Name = Field(description="the name under which the judgments are stored")
    source: Source | None = Field(None, description="None: as they are stored already")
    rater: str = Field("imported", description="source of rows that do not name one")
    ignore_identical_ids: bool = Field(
        False, description="a document named like its query neither ranks nor counts, as in BEIR"
    )
    accept_reworded: bool = Field(False, description="grades hold for reworded queries too")
    measures: tuple[str, ...] = Field(
        DEFAULT_MEASURES, min_length=1, description="ir_measures' names"
    )

    @field_validator("source")
    @classmethod
    def _holds_judgments(cls, value: Source | None) -> Source | None:
        if value is not None and value.format == "beir" and value.split is None:
            raise ValueError("the judgments of a BEIR folder need a `split`")
        return readable(value, "judgments", "python-docs")


class ComparisonSettings(Part):
    against: Name = Field(
        "production", description="name of the promoted baseline; first: the run's own first stage"
    )
    primary: str = Field("nDCG@10", description="the measure that decides")
    query_type: QueryType | None = Field(
        None, description="the query type that decides; None: hybrid, else the first one searched"
    )
    margin: float = Field(0.01, ge=0, description="differences within +-margin do not matter")
    alpha: float = Field(0.05, gt=0, lt=1, description="p-values below are significant")
    min_queries: int = Field(25, ge=2, description="fewer queries never give a verdict")
    correction: Literal["holm", "bh"] = Field("holm", description="of the secondary p-values")


class DataGates(Part):
    max_rejected: int | None = Field(None, ge=0, description="rows of all sources")
    max_documents_change: float | None = Field(
        None, ge=0, description="share by which the number of documents may differ from last time"
    )
    max_without_hits: float | None = Field(
        None, ge=0, le=1, description="share of queries that find nothing"
    )
    max_top10_change: float | None = Field(
        None, ge=0, le=1, description="share of the top 10 that were not there last time, mean"
    )
    max_score_drift: float | None = Field(
        None, ge=0, description="of the top 10's mean score, in standard deviations of last time's"
    )
    max_truncated: float | None = Field(
        None, ge=0, le=1, description="share of pairs that are longer than the model reads"
    )

    @property
    def active(self) -> bool:
        """Whether a condition is given."""
        return any(value is not None for value in vars(self).values())


class Gate(Part):
    metric: str = Field(description="an ir_measures name")
    threshold: float | None = Field(None, description="the mean is at least this")
    min_absolute_change: float | None = Field(None, description="gain over the baseline")
    min_relative_change: float | None = Field(None, description="the gain as a share of its mean")
    greater_is_better: bool = Field(True, description="false: all of the above the other way")
    alpha: float | None = Field(None, ge=0, le=1, description="significance of gain or loss")
    min_judged: float | None = Field(None, ge=0, le=1, description="Judged@k of both sides")
    max_regressed_queries: int | None = Field(None, ge=0, description="so many may become worse")
    slices: tuple[str, ...] = Field(
        (), description="also in each of these: tag:NAME, length:3-5 words, or *"
    )
    query_type: QueryType | None = Field(None, description="None: the comparison's")

    @model_validator(mode="after")
    def _asks_something(self) -> Gate:
        if self.threshold is None and self.min_judged is None and not self.needs_baseline:
            raise ValueError(
                f"the gate on {self.metric} has no condition: give threshold, "
                "min_absolute_change, min_relative_change, alpha, min_judged or "
                "max_regressed_queries"
            )
        return self

    @property
    def needs_baseline(self) -> bool:
        """Whether a condition looks at a change."""
        changes = (self.min_absolute_change, self.min_relative_change, self.alpha)
        return any(c is not None for c in (*changes, self.max_regressed_queries))
