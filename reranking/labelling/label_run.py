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

from reranking.arrow import frame
from reranking.errors import InputError
from reranking.fingerprints import ContentDigest, canonical
from reranking.judgments.consensus import binarised, one_per_pair
from reranking.judgments.lists import current_wording, read_lists
from reranking.labelling.calibration import Calibration, Uncalibrated, fit, with_probability
from reranking.labelling.conflicts import conflicts
from reranking.labelling.goal import Goal, cut_for_precision
from reranking.labelling.judged import labels_as_grades
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
    Rule,
    RuleReport,
    apply_rule,
    compare_rules,
    without_calibration,
)
from reranking.labelling.scored import ScoredRun
from reranking.runs.run import Run
from reranking.store import Database


@dataclass(frozen=True)
class LabelSettings:
    """How labels are made; `goal` names the rule that `target_precision` makes.

    `judgments` are the judgment lists; `calibration` names a label set whose stored calibration is
    used in place of a new one; `other` is the fingerprint of a second reranker.
    """

    label_set: str
    rules: tuple[Rule, ...]
    apply: str
    relevant: int
    judgments: tuple[str, ...]
    target_precision: float | None = None
    goal: str = "target_precision"
    calibration: str | None = None
    other: str | None = None


@dataclass(frozen=True)
class Bench:
    """A run's pairs beside everything that speaks for or against a rule.

    `pairs` carry `probability` where there is a calibration. `rules` are as they will be applied:
    on raw scores where there is none. `refused` says why a rule cannot be applied.
    """

    run: ScoredRun
    settings: LabelSettings
    pairs: pa.Table
    judgments: pa.Table
    calibration: Calibration | Uncalibrated
    other_calibration: Calibration | Uncalibrated | None
    goal: Goal | None
    rules: dict[str, Rule]
    refused: dict[str, str]

    def compare(self) -> list[RuleReport]:
        """What each rule would label, and how it does on the judged pairs."""
        rules = list(self.rules.values())
        return compare_rules(self.pairs, rules, self.judgments, relevant=self.settings.relevant)

    def label(self) -> pa.Table:
        """The labels by the rule that applies; InputError where it cannot be applied."""
        return apply_rule(self.pairs, self.chosen)

    @property
    def chosen(self) -> Rule:
        """The rule that applies, as it is applied; InputError where it cannot be."""
        if self.settings.apply in self.refused:
            raise InputError(self.refused[self.settings.apply])
        return self.rules[self.settings.apply]

    @property
    def evidence(self) -> dict[str, object]:
        """What the row of a label set says beside run and rule; `calibration_of` reads it."""
        of = self.calibration
        return {
            "calibration": json.loads(of.to_json()) if isinstance(of, Calibration) else None,
            "fingerprint": of.fingerprint if isinstance(of, Calibration) else None,
            "uncalibrated": asdict(of) if isinstance(of, Uncalibrated) else None,
            "goal": None if self.goal is None else asdict(self.goal),
            "relevant": self.settings.relevant,
            "judgments": list(self.settings.judgments),
            "judgments_fp": _content(self.judgments),
        }

    def id(self, rule: Rule) -> str:
        """The id of the label set that the rule makes: everything that decides its labels."""
        maps = (self.calibration, self.other_calibration)
        inputs = {
            "run": self.run.plan.run_id,
            "epoch": self.run.epoch,
            "other": self.settings.other,
            "rule": rule.to_json(),
            "maps": [m.fingerprint if isinstance(m, Calibration) else None for m in maps],
        }
        return label_set_id(self.settings.label_set, inputs)


@dataclass(frozen=True)
class Labelled:
    """What a labelling stored: `computed` is false where the same label set was there already.

    `against` compares the labels with the judgments; None where they have no pair in common.
    """

    label_set: str
    computed: bool
    rule: Rule
    labels: pa.Table
    conflicts: pa.Table
    against: Agreement | None


def bench(database: Database, plan: Run, settings: LabelSettings) -> Bench:
    """Everything that is known of the run's pairs; nothing is stored."""
    run = ScoredRun(database, plan, settings.other)
    pairs = run.pairs()
    run.check_other(pairs)
    judgments = read_lists(database, settings.judgments, plan.queries.name)
    calibration = _calibration(database, run, pairs, judgments, settings)
    other: Calibration | Uncalibrated | None = None
    if isinstance(calibration, Calibration):
        pairs = with_probability(pairs, calibration, run.reranker)
    if settings.other is not None:
        other = _other_calibration(pairs, judgments, settings)
        if isinstance(other, Calibration):
            pairs = _with_other_probability(pairs, other, settings.other)
    goal = None
    if settings.target_precision is not None:
        goal = cut_for_precision(
            pairs, judgments, settings.target_precision, relevant=settings.relevant
        )
    rules, refused = _usable(settings, calibration, other, goal)
    return Bench(run, settings, pairs, judgments, calibration, other, goal, rules, refused)


def label_run(database: Database, of: Bench) -> Labelled:
    """Store the labels of the rule that applies, unless they are there, as the current ones."""
    rule = of.chosen
    label_set = of.id(rule)
    stored = stored_label_set(database, label_set)
    computed = stored is None or not is_whole(database, stored)
    labels = of.label() if computed else read_labels(database, label_set)
    if computed or not _is_current(database, label_set, of.evidence):
        store_label_set(
            database,
            label_set,
            labels.select(LABEL_COLUMNS.names),
            runs=[of.run.plan.run_id],
            rule=rule.to_json(),
            evidence=of.evidence,
        )
    graded, relevant = bool(rule.grades), of.settings.relevant
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
    database: Database,
    run: ScoredRun,
    pairs: pa.Table,
    judgments: pa.Table,
    settings: LabelSettings,
) -> Calibration | Uncalibrated:
    if settings.calibration is None:
        return fit(pairs, judgments, run.reranker, relevant=settings.relevant)
    row = find_label_set(database, settings.calibration)
    stored = calibration_of(row)
    if isinstance(stored, Uncalibrated):
        raise InputError(f"label set {row['label_set']} has no calibration: {stored.reason}")
    if stored.reranker != run.reranker:
        stored.apply(pairs.column("score").to_numpy(), run.reranker)  # says why it is refused
    return stored


def _other_calibration(
    pairs: pa.Table, judgments: pa.Table, settings: LabelSettings
) -> Calibration | Uncalibrated:
    assert settings.other is not None
    scored = frame(pairs).filter(pl.col("other_score").is_not_null())
    theirs = scored.with_columns(pl.col("other_score").alias("score"))
    return fit(theirs.to_arrow(), judgments, settings.other, relevant=settings.relevant)


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
    settings: LabelSettings,
    calibration: Calibration | Uncalibrated,
    other: Calibration | Uncalibrated | None,
    goal: Goal | None,
) -> tuple[dict[str, Rule], dict[str, str]]:
    """The rules as they are applied, and why others cannot be."""
    rules: dict[str, Rule] = {}
    refused: dict[str, str] = {}
    for rule in settings.rules:
        lacks = isinstance(calibration, Uncalibrated) or (
            rule.other_at_least is not None and isinstance(other, Uncalibrated)
        )
        rules[rule.name] = without_calibration(rule) if lacks else rule
    if goal is not None and goal.reached:
        rules[settings.goal] = goal.rule(settings.goal)
    elif goal is not None:
        refused[settings.goal] = goal.statement
    return rules, refused


def _against(labels: pa.Table, of: Bench, graded: bool) -> Agreement | None:
    """How far labels and judgments agree: grade by grade for graded labels, else yes and no."""
    held = current_wording(of.judgments, of.run.queries)
    grades = one_per_pair(held)
    said = labels_as_grades(labels)
    if not graded:
        said, grades = binarised(said, 1), binarised(grades, of.settings.relevant)
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
