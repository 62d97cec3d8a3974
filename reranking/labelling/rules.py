"""Rules that turn scored pairs into labels, and how several rules compare before one is applied.

A rule is declared as data. All its conditions must hold for a pair to be positive; what the rule
cannot decide stays without a label (`unsure`) and goes to people.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from configs.labelling import LabelRule
from reranking.errors import ConfigError, InputError
from reranking.fingerprints import canonical
from reranking.judgments.consensus import RELEVANT
from reranking.labelling.intervals import Proportion, proportion
from reranking.labelling.judged import judged, no_sample, pair_frame, ranked, sample_of
from reranking.schemas import LABELS, conform

LABEL_COLUMNS = pa.schema([field for field in LABELS if field.name != "label_set"])
"""LABELS without the label set, which whoever stores the labels names."""


def rule_json(rule: LabelRule) -> str:
    """Write the rule as it is stored with its label set: the conditions that it has."""
    return canonical(rule.conditions)


def without_calibration(rule: LabelRule) -> LabelRule:
    """The rule for raw scores: each probability p becomes its logit, the score whose sigmoid is p.

    For judgments that allow no calibration; labels made by it carry no probability, which marks
    them as uncalibrated. ConfigError for a margin, which has no fixed size in logits.
    """
    if rule.on == "score":
        return rule
    if rule.margin is not None:
        raise ConfigError(
            f"rule {rule.name!r} has a margin of probability and there is no calibration; "
            "give the margin in raw scores with `on: score`"
        )

    def cut(value: float | None) -> float | None:
        return None if value is None else _logit(value)

    return rule.model_copy(
        update={
            "on": "score",
            "at_least": cut(rule.at_least),
            "grades": tuple(_logit(value) for value in rule.grades),
            "unsure": rule.unsure and (_logit(rule.unsure[0]), _logit(rule.unsure[1])),
            "other_at_least": cut(rule.other_at_least),
        }
    )


def _logit(probability: float) -> float:
    if probability in (0.0, 1.0):
        return math.inf if probability else -math.inf
    return math.log(probability / (1 - probability))


def apply_rule(pairs: pa.Table, rule: LabelRule) -> pa.Table:  # LABELS without label_set
    """One label per pair, in (query_id, doc_id) order: a grade, or null where the rule abstains.

    A rule on probabilities needs the column that `calibration.with_probability` adds.
    """
    rows = _labelled(pairs, rule)
    if "probability" not in rows.columns:
        rows = rows.with_columns(pl.lit(None, pl.Float64).alias("probability"))
    chosen = rows.sort("query_id", "doc_id").select(LABEL_COLUMNS.names)
    return conform(chosen.to_arrow(), LABEL_COLUMNS)


def _labelled(pairs: pa.Table, rule: LabelRule) -> pl.DataFrame:
    """The pairs with the column `label`."""
    other = f"other_{rule.on}"
    if rule.on == "probability" and "probability" not in pairs.column_names:
        raise InputError(
            f"rule {rule.name!r} cuts on probability, but these pairs are not calibrated; "
            "fit a calibration, or declare the rule with `on: score`"
        )
    needed = (rule.on, *([other] if rule.other_at_least is not None else []))
    rows = ranked(pair_frame(pairs, *needed))
    value, positive = pl.col(rule.on), pl.lit(True)
    if rule.top_n is not None:
        positive &= pl.col("position") <= rule.top_n
    if rule.margin is not None:
        positive &= value >= value.max().over("query_id") - rule.margin
    if rule.both_legs:
        positive &= pl.col("vector_rank").is_not_null() & pl.col("fts_rank").is_not_null()
    cuts = rule.grades if rule.at_least is None else (rule.at_least,)
    level = pl.sum_horizontal([(value >= cut).cast(pl.Int32) for cut in cuts] or [pl.lit(1)])
    doubt = pl.lit(False)
    if rule.unsure is not None:
        doubt |= (value >= rule.unsure[0]) & (value < rule.unsure[1])
    if rule.other_at_least is not None:
        agrees = (pl.col(other) >= rule.other_at_least) == (level >= 1)
        doubt |= ~agrees.fill_null(False)
    label = pl.when(~positive).then(0).when(doubt).then(None).otherwise(level)
    return rows.with_columns(label.cast(pl.Int32).alias("label"))


@dataclass(frozen=True)
class RuleReport:
    """What a rule does to the pairs, and what the judged ones among them say about it.

    Precision: of the judged pairs that it calls positive, the relevant ones; unknown where only
    relevant pairs were judged, for it would be 1 whatever the rule says. Recall: of the judged
    relevant pairs that were scored, those it calls positive (unsure ones are not). `no_sample` says
    why there is no precision though positive pairs are judged.
    """

    rule: LabelRule
    pairs: int
    positive: int
    negative: int
    unsure: int
    precision: Proportion
    recall: Proportion
    no_sample: str | None = None

    @property
    def precision_said(self) -> str:
        """The precision with its interval, or why the judgments give none."""
        return f"unknown ({self.no_sample})" if self.no_sample else str(self.precision)


def compare_rules(
    pairs: pa.Table,
    rules: Sequence[LabelRule],
    judgments: pa.Table | None = None,
    *,
    relevant: int = RELEVANT,
) -> list[RuleReport]:
    """Return what each rule would label, side by side; nothing is stored.

    Recall counts all judgments, precision those of `sample_of`.
    """
    return [_report(pairs, rule, judgments, relevant) for rule in rules]


def _report(
    pairs: pa.Table, rule: LabelRule, judgments: pa.Table | None, relevant: int
) -> RuleReport:
    rows = _labelled(pairs, rule)
    known = sampled = rows.head(0).with_columns(pl.lit(0).alias("relevance"))
    if judgments is not None:
        known = judged(rows, judgments)
        sampled = judged(rows, sample_of(judgments, relevant)[0])
    said = (known["label"] >= 1).fill_null(False).to_numpy()
    true = (known["relevance"] >= relevant).to_numpy()
    query = known["query_id"].to_numpy()
    label = rows["label"]
    positive = sampled.filter(pl.col("label") >= 1)
    if (sampled["relevance"] >= relevant).all():  # none could show a wrong label
        positive = positive.head(0)
    lacking = no_sample(rows.filter(pl.col("label") >= 1)["score"], positive["score"])
    if lacking is not None:
        positive = positive.head(0)
    precision = proportion(
        (positive["relevance"] >= relevant).to_numpy(), positive["query_id"].to_numpy()
    )
    return RuleReport(
        rule=rule,
        pairs=rows.height,
        positive=int((label >= 1).sum()),
        negative=int((label == 0).sum()),
        unsure=label.null_count(),
        precision=precision,
        recall=proportion(said[true], query[true]),
        no_sample=lacking,
    )
