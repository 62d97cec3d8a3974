"""Rules that turn scored pairs into labels, and how several rules compare before one is applied.

A rule is declared as data. All its conditions must hold for a pair to be positive; what the rule
cannot decide stays without a label (`unsure`) and goes to people.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import polars as pl
import pyarrow as pa

from reranking.errors import ConfigError, InputError
from reranking.fingerprints import canonical
from reranking.judgments.consensus import RELEVANT
from reranking.labelling.intervals import Proportion, proportion
from reranking.labelling.judged import judged, pair_frame, ranked
from reranking.schemas import LABELS, conform

LABEL_COLUMNS = pa.schema([field for field in LABELS if field.name != "label_set"])
"""LABELS without the label set, which whoever stores the labels names."""


@dataclass(frozen=True)
class Rule:
    """What makes a pair positive; every cut is on the scale `on`.

    at_least: positive from this value up (label 1, else 0).
    grades: ascending cut points instead; the label is how many of them the value reaches.
    unsure: values in [low, high) stay unlabelled.
    top_n: positive only among the query's n best.
    margin: positive only this close to the query's best value.
    both_legs: positive only if the vector and the FTS leg both found the document.
    other_at_least: a second reranker must take the same side of this cut, or the pair is unsure.
    """

    name: str
    on: Literal["probability", "score"] = "probability"
    at_least: float | None = None
    grades: tuple[float, ...] = ()
    unsure: tuple[float, float] | None = None
    top_n: int | None = None
    margin: float | None = None
    both_legs: bool = False
    other_at_least: float | None = None

    def __post_init__(self) -> None:
        faults = _faults(self)
        if faults:
            raise ConfigError(f"rule {self.name!r}: " + "; ".join(faults))

    def to_json(self) -> str:
        """The rule as it is stored with its label set: the conditions that it has."""
        return canonical({k: v for k, v in asdict(self).items() if _given(v)})


def _given(value: object) -> bool:
    """Whether a condition is declared; a cut at 0 is."""
    return value is not None and value is not False and value != ()


def _faults(rule: Rule) -> list[str]:
    cuts = (rule.at_least, rule.grades, rule.top_n, rule.margin, rule.both_legs)
    checks = {
        "`on` is probability or score": rule.on in ("probability", "score"),
        "it needs one of at_least, grades, top_n, margin, both_legs": any(
            _given(cut) for cut in cuts
        ),
        "give at_least or grades, not both": rule.at_least is None or not rule.grades,
        "grades must ascend": list(rule.grades) == sorted(set(rule.grades)),
        "top_n must be at least 1": rule.top_n is None or rule.top_n >= 1,
        "margin must not be negative": rule.margin is None or rule.margin >= 0,
        "unsure must be a low and a higher value": rule.unsure is None
        or rule.unsure[0] < rule.unsure[1],
    }
    values = [*rule.grades, *(rule.unsure or ()), rule.at_least, rule.other_at_least]
    if rule.on == "probability":
        checks["probabilities lie between 0 and 1"] = all(v is None or 0 <= v <= 1 for v in values)
    return [fault for fault, good in checks.items() if not good]


def without_calibration(rule: Rule) -> Rule:
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

    return replace(
        rule,
        on="score",
        at_least=cut(rule.at_least),
        grades=tuple(_logit(value) for value in rule.grades),
        unsure=rule.unsure and (_logit(rule.unsure[0]), _logit(rule.unsure[1])),
        other_at_least=cut(rule.other_at_least),
    )


def _logit(probability: float) -> float:
    if probability in (0.0, 1.0):
        return math.inf if probability else -math.inf
    return math.log(probability / (1 - probability))


def apply_rule(pairs: pa.Table, rule: Rule) -> pa.Table:  # LABELS without label_set
    """One label per pair, in (query_id, doc_id) order: a grade, or null where the rule abstains.

    A rule on probabilities needs the column that `calibration.with_probability` adds.
    """
    rows = _labelled(pairs, rule)
    if "probability" not in rows.columns:
        rows = rows.with_columns(pl.lit(None, pl.Float64).alias("probability"))
    chosen = rows.sort("query_id", "doc_id").select(LABEL_COLUMNS.names)
    return conform(chosen.to_arrow(), LABEL_COLUMNS)


def as_other(pairs: pa.Table) -> pa.Table:
    """The pairs with the two rerankers' scores and probabilities exchanged.

    The same rule on both tables labels with either reranker; `agreement` then compares them.
    """
    names = {"score": "other_score", "probability": "other_probability"}
    back = {other: one for one, other in names.items()}
    return pairs.rename_columns([(names | back).get(name, name) for name in pairs.column_names])


def _labelled(pairs: pa.Table, rule: Rule) -> pl.DataFrame:
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
    relevant pairs that were scored, those it calls positive (unsure ones are not).
    """

    rule: Rule
    pairs: int
    positive: int
    negative: int
    unsure: int
    precision: Proportion
    recall: Proportion


def compare_rules(
    pairs: pa.Table,
    rules: Sequence[Rule],
    judgments: pa.Table | None = None,
    *,
    relevant: int = RELEVANT,
) -> list[RuleReport]:
    """What each rule would label, side by side; nothing is stored."""
    return [_report(pairs, rule, judgments, relevant) for rule in rules]


def _report(pairs: pa.Table, rule: Rule, judgments: pa.Table | None, relevant: int) -> RuleReport:
    rows = _labelled(pairs, rule)
    known = rows.head(0).with_columns(pl.lit(0).alias("relevance"))
    if judgments is not None:
        known = judged(rows, judgments)
    said = (known["label"] >= 1).fill_null(False).to_numpy()
    true = (known["relevance"] >= relevant).to_numpy()
    query = known["query_id"].to_numpy()
    label = rows["label"]
    shown = said & (not true.all())
    precision = proportion(true[shown], query[shown])
    return RuleReport(
        rule=rule,
        pairs=rows.height,
        positive=int((label >= 1).sum()),
        negative=int((label == 0).sum()),
        unsure=label.null_count(),
        precision=precision,
        recall=proportion(said[true], query[true]),
    )
