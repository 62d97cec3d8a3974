"""Labels from a finished run's stored scores: calibrate, compare rules, apply one, store.

Nothing here needs the model. The evidence that a label set is stored with - which judgments, the
calibration or why there is none, what the goal's cut achieved - is JSON in its row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from configs.labelling import BY_GOAL, LabelRule, Labels
from reranking.arrow import frame
from reranking.errors import InputError
from reranking.fingerprints import ContentDigest, canonical
from reranking.judgments.consensus import binarised, one_per_pair
from reranking.judgments.lists import current_wording, read_lists
from reranking.labelling.calibration import Calibration, Uncalibrated, fit, with_probability
from reranking.labelling.conflicts import conflicts
from reranking.labelling.goal import Goal, cut_for_precision
from reranking.labelling.judged import labels_as_grades, sample_of
from reranking.labelling.kappa import Agreement, agreement
from reranking.labelling.label_sets import (
    find_label_set,
    is_whole,
    label_set_id,
    read_labels,
    store_label_set,
    stored_label_set,
)
from reranking.labelling.rules import (
    LABEL_COLUMNS,
    RuleReport,
    apply_rule,
    compare_rules,
    rule_json,
    without_calibration,
)
from reranking.labelling.scored import ScoredRun, reranker_named
from reranking.runs.run import Run
from reranking.store import Database


@dataclass(frozen=True)
class Bench:
    """A run's pairs beside everything that speaks for or against a rule.

    `pairs` carry `probability` if a calibration exists. `rules` are as they will be applied:
    on raw scores if there is none. `refused` says why a rule cannot be applied. `left_out` counts
    the judgments of sources that say `relevant` only: they enter neither calibration nor precision.
    """

    scored: ScoredRun
    labels: Labels
    pairs: pa.Table
    judgments: pa.Table
    left_out: dict[str, int]
    calibration: Calibration | Uncalibrated
    other_calibration: Calibration | Uncalibrated | None
    goal: Goal | None
    rules: dict[str, LabelRule]
    refused: dict[str, str]

    def compare(self) -> list[RuleReport]:
        """What each rule would label, and how it does on the judged pairs."""
        rules = list(self.rules.values())
        return compare_rules(self.pairs, rules, self.judgments, relevant=self.labels.relevant)

    def label(self) -> pa.Table:
        """The labels by the rule that applies; InputError where it cannot be applied."""
        return apply_rule(self.pairs, self.chosen)

    @property
    def chosen(self) -> LabelRule:
        """The rule that applies, as it is applied; InputError where it cannot be."""
        if self.labels.applied in self.refused:
            raise InputError(self.refused[self.labels.applied])
        return self.rules[self.labels.applied]

    @property
    def cut(self) -> float | None:
        """The raw score from which the applied rule calls pairs positive; None if it has no cut."""
        rule = self.rules.get(self.labels.applied)
        if rule is None:  # a goal that was not reached
            return None if self.goal is None else self.goal.cut
        cut = rule.at_least
        if cut is None and rule.grades:
            cut = rule.grades[0]
        if cut is None or rule.on == "score":
            return cut
        above = frame(self.pairs).filter(pl.col("probability") >= cut)["score"].min()
        return None if above is None else float(above)  # type: ignore[arg-type]

    @property
    def evidence(self) -> dict[str, object]:
        """What the row of a label set says beside run and rule; `calibration_of` reads it."""
        of = self.calibration
        return {
            "calibration": json.loads(of.to_json()) if isinstance(of, Calibration) else None,
            "fingerprint": of.fingerprint if isinstance(of, Calibration) else None,
            "uncalibrated": asdict(of) if isinstance(of, Uncalibrated) else None,
            "goal": None if self.goal is None else asdict(self.goal),
            "relevant": self.labels.relevant,
            "judgments": list(self.labels.judgments),
            "judgments_fp": _content(self.judgments),
        }

    def id(self, rule: LabelRule) -> str:
        """The id of the label set that the rule makes: everything that decides its labels."""
        maps = (self.calibration, self.other_calibration)
        inputs = {
            "run": self.scored.run.run_id,
            "epoch": self.scored.epoch,
            "other": self.scored.other,
            "rule": rule_json(rule),
            "maps": [m.fingerprint if isinstance(m, Calibration) else None for m in maps],
        }
        return label_set_id(self.labels.label_set, inputs)


@dataclass(frozen=True)
class Labelled:
    """What a labelling stored: `computed` is false where the same label set was there already.

    `against` compares the labels with the judgments; None where they have no pair in common.
    """

    label_set: str
    computed: bool
    rule: LabelRule
    labels: pa.Table
    conflicts: pa.Table
    against: Agreement | None


def bench(run: Run, labels: Labels) -> Bench:
    """Return everything that is known of the run's pairs; nothing is stored.

    `labels.judgments` are the lists to calibrate and check on, none if it is empty. Raises
    MissingResource for an unknown list, or a model of which no run has scores.
    """
    model = labels.other_model
    scored = ScoredRun(run, None if model is None else reranker_named(run.database, model))
    pairs = scored.pairs()
    scored.check_other(pairs)
    judgments = read_lists(run.database, labels.judgments, run.queries.name)
    sample, left_out = sample_of(judgments, labels.relevant)
    calibration = _calibration(scored, pairs, sample, labels)
    other: Calibration | Uncalibrated | None = None
    if isinstance(calibration, Calibration):
        pairs = with_probability(pairs, calibration, scored.reranker)
    if scored.other is not None:
        other = _other_calibration(pairs, sample, scored.other, labels.relevant)
        if isinstance(other, Calibration):
            pairs = _with_other_probability(pairs, other, scored.other)
    goal = None
    if labels.target_precision is not None:
        goal = cut_for_precision(pairs, sample, labels.target_precision, relevant=labels.relevant)
    rules, refused = _usable(labels, calibration, other, goal)
    return Bench(
        scored, labels, pairs, judgments, left_out, calibration, other, goal, rules, refused
    )


def label_run(of: Bench) -> Labelled:
    """Store the labels of the rule that applies, unless they are there, as the current ones."""
    rule, database = of.chosen, of.scored.run.database
    label_set = of.id(rule)
    stored = stored_label_set(database, label_set)
    computed = stored is None or not is_whole(database, stored)
    labels = of.label() if computed else read_labels(database, label_set)
    if computed or not _is_current(database, label_set, of.evidence):
        store_label_set(
            database,
            label_set,
            labels.select(LABEL_COLUMNS.names),
            runs=[of.scored.run.run_id],
            rule=rule_json(rule),
            evidence=of.evidence,
        )
    graded, relevant = bool(rule.grades), of.labels.relevant
    return Labelled(
        label_set,
        computed,
        rule,
        labels,
        conflicts(labels, of.judgments, relevant=relevant, graded=graded),
        _against(labels, of, graded),
    )


def _is_current(database: Database, label_set: str, evidence: Mapping[str, object]) -> bool:
    """Whether this is its name's label set, with this evidence beside its count of labels."""
    row = find_label_set(database, label_set.partition("@")[0])
    stored = json.loads(row["calibration"])
    stored.pop("labels")
    return bool(row["label_set"] == label_set and canonical(stored) == canonical(evidence))


def calibration_of(row: Mapping[str, Any]) -> Calibration | Uncalibrated:
    """The calibration that a row of `label_sets` carries, or why it has none."""
    stored = json.loads(row["calibration"])
    if stored["calibration"] is None:
        return Uncalibrated(**stored["uncalibrated"])
    return Calibration.from_json(json.dumps(stored["calibration"]))


def _calibration(
    scored: ScoredRun, pairs: pa.Table, judgments: pa.Table, labels: Labels
) -> Calibration | Uncalibrated:
    if labels.calibration is None:
        return fit(pairs, judgments, scored.reranker, relevant=labels.relevant)
    row = find_label_set(scored.run.database, labels.calibration)
    stored = calibration_of(row)
    if isinstance(stored, Uncalibrated):
        raise InputError(f"label set {row['label_set']} has no calibration: {stored.reason}")
    if stored.reranker != scored.reranker:
        stored.apply(pairs.column("score").to_numpy(), scored.reranker)  # says why it is refused
    return stored


def _other_calibration(
    pairs: pa.Table, judgments: pa.Table, reranker: str, relevant: int
) -> Calibration | Uncalibrated:
    known = frame(pairs).filter(pl.col("other_score").is_not_null())
    theirs = known.with_columns(pl.col("other_score").alias("score"))
    return fit(theirs.to_arrow(), judgments, reranker, relevant=relevant)


def _with_other_probability(pairs: pa.Table, other: Calibration, reranker: str) -> pa.Table:
    """The pairs with `other_probability`, null where the second reranker gave no score."""
    scored = frame(pairs).select("query_id", "doc_id", "other_score").drop_nulls()
    rated = with_probability(
        scored.to_arrow(), other, reranker, score="other_score", probability="other_probability"
    )
    keys = ["query_id", "doc_id"]
    joined = frame(pairs).join(
        frame(rated).drop("other_score"), on=keys, how="left", maintain_order="left"
    )
    return joined.to_arrow()


def _usable(
    labels: Labels,
    calibration: Calibration | Uncalibrated,
    other: Calibration | Uncalibrated | None,
    goal: Goal | None,
) -> tuple[dict[str, LabelRule], dict[str, str]]:
    """The rules as they are applied, and why others cannot be."""
    rules: dict[str, LabelRule] = {}
    refused: dict[str, str] = {}
    for rule in labels.rules:
        lacks = isinstance(calibration, Uncalibrated) or (
            rule.other_at_least is not None and isinstance(other, Uncalibrated)
        )
        rules[rule.name] = without_calibration(rule) if lacks else rule
    if goal is not None and goal.reached:
        rules[BY_GOAL] = goal.rule
    elif goal is not None:
        refused[BY_GOAL] = goal.statement
    return rules, refused


def _against(labels: pa.Table, of: Bench, graded: bool) -> Agreement | None:
    """How far labels and judgments agree: grade by grade for graded labels, else yes and no."""
    held = current_wording(of.judgments, of.scored.queries)
    grades = one_per_pair(held)
    said = labels_as_grades(labels)
    if not graded:
        said, grades = binarised(said, 1), binarised(grades, of.labels.relevant)
    try:
        return agreement(said, grades)
    except InputError:  # nobody judged a labelled pair
        return None


def _content(judgments: pa.Table) -> str:
    """What names the judgments, in any order."""
    content = ContentDigest()
    columns = ["query_id", "doc_id", "source", "relevance", "query_hash"]
    for *row, query_hash in frame(judgments).select(columns).iter_rows():
        content.add([canonical(row).encode("utf-8", "surrogatepass") + query_hash])
    return content.hex()
