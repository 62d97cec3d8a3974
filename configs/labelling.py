"""The config of labelling and training data: what is made of a finished run's stored scores."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from configs.part import Name, Part

Scale = Literal["probability", "score"]
BY_GOAL = "target_precision"
"""The name of the rule that `target_precision` makes."""


class LabelRule(Part):
    name: Name = Field(description="how reports and `apply` call the rule")
    on: Scale = Field("probability", description="the scale of all cuts: calibrated, or raw logits")
    at_least: float | None = Field(None, description="positive from this value up")
    grades: tuple[float, ...] = Field((), description="ascending cuts; the label is how many hold")
    unsure: tuple[float, float] | None = Field(
        None, description="[low, high): left without a label, for people to review"
    )
    top_n: int | None = Field(None, ge=1, description="positive only among a query's n best")
    margin: float | None = Field(None, ge=0, description="positive only this close to its best")
    both_legs: bool = Field(False, description="positive only where both legs found the document")
    other_at_least: float | None = Field(
        None, description="labels.other_model must take the same side of this cut, else unsure"
    )

    @model_validator(mode="after")
    def _makes_sense(self) -> LabelRule:
        conditions = (self.at_least, self.grades, self.top_n, self.margin, self.both_legs)
        checks = {
            "it needs one of at_least, grades, top_n, margin, both_legs": any(
                _given(condition) for condition in conditions
            ),
            "give at_least or grades, not both": self.at_least is None or not self.grades,
            "grades must ascend": list(self.grades) == sorted(set(self.grades)),
            "unsure must be a low and a higher value": self.unsure is None
            or self.unsure[0] < self.unsure[1],
        }
        if self.on == "probability":
            values = [*self.grades, *(self.unsure or ()), self.at_least, self.other_at_least]
            checks["probabilities lie between 0 and 1"] = all(
                value is None or 0 <= value <= 1 for value in values
            )
        if faults := [fault for fault, holds in checks.items() if not holds]:
            raise ValueError(f"rule {self.name!r}: " + "; ".join(faults))
        return self

    @property
    def conditions(self) -> dict[str, Any]:
        """The keys that the rule declares, with their values: what is stored and digested."""
        return {key: value for key, value in self.model_dump().items() if _given(value)}


def _given(value: object) -> bool:
    """Whether a condition is declared; a cut at 0 is."""
    return value is not None and value is not False and value != ()


class Labels(Part):
    label_set: Name = Field(description="the name under which the labels are stored")
    rules: tuple[LabelRule, ...] = Field((), description="compared; one of them is applied")
    apply: str | None = Field(
        None, description="that rule's name; None: target_precision where given, else the first"
    )
    target_precision: float | None = Field(
        None, gt=0, lt=1, description="also a rule: the cut that keeps labels so precise"
    )
    relevant: int = Field(1, description="the lowest grade that counts as relevant")
    judgments: tuple[Name, ...] = Field(
        (), description="judgment lists to calibrate and check on; empty: the config's own"
    )
    calibration: Name | None = Field(
        None, description="a label set whose stored calibration is used; None: fitted on judgments"
    )
    other_model: str | None = Field(
        None, description="model_name of a second reranker, whose scores another run has stored"
    )

    @model_validator(mode="after")
    def _whole(self) -> Labels:
        names = [rule.name for rule in self.rules]
        names += [BY_GOAL] if self.target_precision is not None else []
        if not names:
            raise ValueError("labels need rules or a target_precision")
        if len(set(names)) != len(names):
            raise ValueError(f"each rule has a name of its own ({BY_GOAL} is the goal's)")
        if self.apply is not None and self.apply not in names:
            raise ValueError(f"apply names none of the rules {', '.join(names)}")
        if self.other_model is None and any(r.other_at_least is not None for r in self.rules):
            raise ValueError("other_at_least needs labels.other_model")
        return self

    @property
    def applied(self) -> str:
        """The name of the rule that labels: `apply`, else the goal's, else the first one's."""
        by_goal = self.target_precision is not None
        return self.apply or (BY_GOAL if by_goal else self.rules[0].name)


class Training(Part):
    range_min: int = Field(0, ge=0, description="skip so many of the best candidates")
    range_max: int | None = Field(None, ge=1, description="candidates looked at; None: as needed")
    max_score: float | None = Field(None, description="no negative scores above this")
    min_score: float | None = Field(None, description="no negative scores below this")
    absolute_margin: float | None = Field(None, description="so far below the worst positive")
    relative_margin: float | None = Field(None, description="the same as a share of its score")
    num_negatives: int = Field(3, ge=1, description="negatives per query")
    sampling_strategy: Literal["top", "random"] = Field("top", description="which candidates")
    seed: int = Field(0, description="of sampling and of the splits")
    on: Scale = Field("score", description="the scale of scores and margins")
    duplicate_overlap: float = Field(
        0.9, gt=0, le=1, description="share of common words that makes a copy of a positive"
    )
    positives: Literal["judgments", "labels"] = Field(
        "judgments", description="labels: of the label set too, where nobody judged"
    )
    relevant: int | None = Field(None, description="None: labels.relevant, else 1")
    label_set: Name | None = Field(
        None, description="labels that are no negatives: positive and unsure ones"
    )
    output_format: Literal["triplet", "n-tuple", "labeled-pair", "labeled-list"] = Field(
        "triplet", description="as in sentence-transformers"
    )
    output_scores: bool = Field(False, description="raw logits for distillation, not labels")
    splits: dict[Name, float] = Field(
        {"train": 0.9, "dev": 0.1}, description="shares of the queries"
    )

    @field_validator("splits")
    @classmethod
    def _adds_up(cls, value: dict[str, float]) -> dict[str, float]:
        if min(value.values(), default=-1.0) < 0 or not math.isclose(sum(value.values()), 1):
            raise ValueError("the shares of the splits must not be negative and add up to 1")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Training:
        if self.range_max is not None and self.range_max - self.range_min < self.num_negatives:
            raise ValueError("range_max must leave num_negatives candidates after range_min")
        if self.positives == "labels" and self.label_set is None:
            raise ValueError("positives: labels needs training.label_set")
        return self
