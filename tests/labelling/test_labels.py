"""Rules, precision goals, conflicts and stale labels: small tables worked out by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from configs.labelling import LabelRule
from reranking.errors import ConfigError, InputError
from reranking.fingerprints import text_hash
from reranking.labelling.conflicts import conflicts, prefer_human, stale
from reranking.labelling.rules import (
    LABEL_COLUMNS,
    apply_rule,
    compare_rules,
    rule_json,
    without_calibration,
)
from tests.support.labels import PAIRS, judgments, labelled


def labels_of(**conditions: Any) -> dict[str, int]:
    table = apply_rule(PAIRS, LabelRule(name="r", on="score", **conditions))
    return dict(
        zip(
            map("".join, zip(*(table[c].to_pylist() for c in ("query_id", "doc_id")), strict=True)),
            table["label"].to_pylist(),
            strict=True,
        )
    )


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"at_least": 3.0}, [1, 1, 1, 0, 0, 0]),
        ({"grades": (0.0, 3.0, 4.0)}, [3, 2, 2, 0, 1, 0]),
        ({"top_n": 2}, [1, 1, 0, 0, 1, 1]),  # b before c: equal scores go by doc_id
        ({"margin": 2.0}, [1, 1, 1, 0, 1, 0]),
        ({"at_least": 0.0, "both_legs": True}, [1, 0, 1, 0, 1, 0]),
        ({"at_least": 3.0, "unsure": (0.0, 4.0)}, [1, None, None, 0, None, 0]),
        ({"at_least": 0.0, "top_n": 1}, [1, 0, 0, 0, 1, 0]),
        # two rerankers: b's second score disagrees, q2 b has none
        ({"at_least": 0.0, "other_at_least": 0.0}, [1, None, 1, 0, 1, None]),
        ({"grades": (-3.0, 4.0), "top_n": 1, "unsure": (0.0, 1.0)}, [2, 0, 0, 0, None, 0]),
    ],
)
def test_each_condition(conditions: dict[str, Any], expected: list[int]) -> None:
    keys = ["q1a", "q1b", "q1c", "q1d", "q2a", "q2b"]
    assert labels_of(**conditions) == dict(zip(keys, expected, strict=True))


def test_labels_have_the_stored_columns_and_no_probability_without_calibration() -> None:
    table = apply_rule(PAIRS, LabelRule(name="r", on="score", at_least=0.0))
    assert table.schema.equals(LABEL_COLUMNS)
    assert table["probability"].null_count == len(PAIRS)
    assert table["score"].to_pylist()[0] == 5.0
    assert table["doc_hash"].to_pylist()[0] == text_hash("a")


def test_rows_in_any_order_give_the_same_labels() -> None:
    rule = LabelRule(name="r", on="score", top_n=2, at_least=1.0)
    shuffled = PAIRS.take(np.random.default_rng(0).permutation(len(PAIRS)))
    assert apply_rule(PAIRS, rule).equals(apply_rule(shuffled, rule))


def test_a_rule_on_probability_reads_the_calibrated_column() -> None:
    calibrated = PAIRS.append_column("probability", pa.array([0.9, 0.6, 0.4, 0.1, 0.5, 0.0]))
    table = apply_rule(calibrated, LabelRule(name="r", at_least=0.5))
    assert table["label"].to_pylist() == [1, 1, 0, 0, 1, 0]
    assert table["probability"].to_pylist()[0] == 0.9
    with pytest.raises(InputError, match="not calibrated"):
        apply_rule(PAIRS, LabelRule(name="r", at_least=0.5))


def test_without_a_calibration_a_probability_becomes_its_logit() -> None:
    rule = without_calibration(
        LabelRule(name="r", at_least=0.5, unsure=(0.25, 0.75), other_at_least=1.0)
    )
    assert (rule.on, rule.at_least, rule.other_at_least) == ("score", 0.0, math.inf)
    assert rule.unsure == pytest.approx((-math.log(3), math.log(3)))
    assert without_calibration(rule) is rule
    with pytest.raises(ConfigError, match="margin"):
        without_calibration(LabelRule(name="r", at_least=0.5, margin=0.1))


@pytest.mark.parametrize(
    ("conditions", "fault"),
    [
        ({}, "needs one of"),
        ({"at_least": 0.5, "grades": (0.1,)}, "not both"),
        ({"grades": (0.5, 0.2)}, "ascend"),
        ({"at_least": 1.5}, "between 0 and 1"),
        ({"top_n": 0}, "top_n"),
        ({"at_least": 0.5, "unsure": (0.7, 0.3)}, "low and a higher"),
        ({"at_least": 0.5, "on": "logit"}, "'probability' or 'score'"),
        ({"top_n": 3, "margin": -1.0}, "margin"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(conditions: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        LabelRule(name="r", **conditions)


def test_a_rule_is_stored_with_the_conditions_it_has() -> None:
    text = rule_json(LabelRule(name="strict", at_least=0.8, both_legs=True))
    assert json.loads(text) == {
        "name": "strict",
        "on": "probability",
        "at_least": 0.8,
        "both_legs": True,
    }
    assert json.loads(rule_json(LabelRule(name="all", on="score", at_least=0.0)))["at_least"] == 0.0


def test_rules_are_compared_with_counts_precision_and_recall() -> None:
    known = judgments(
        ("q1", "a", 2), ("q1", "b", 0), ("q1", "d", 1), ("q2", "a", 1), ("q3", "z", 1)
    )
    loose, strict = compare_rules(
        PAIRS,
        [
            LabelRule(name="loose", on="score", at_least=0.0),
            LabelRule(name="strict", on="score", at_least=4.0),
        ],
        known,
    )
    assert (loose.pairs, loose.positive, loose.negative, loose.unsure) == (6, 4, 2, 0)
    assert (loose.precision.hits, loose.precision.total) == (2, 3)
    assert (loose.recall.hits, loose.recall.total) == (2, 3)  # q3 was never scored
    assert (strict.precision.hits, strict.precision.total) == (1, 1)
    assert (strict.recall.hits, strict.recall.total) == (1, 3)
    assert loose.precision.low < 2 / 3 < loose.precision.high


def test_unsure_pairs_are_counted_and_are_not_found() -> None:
    rule = LabelRule(name="r", on="score", at_least=3.0, unsure=(-9.0, 4.0))
    (report,) = compare_rules(PAIRS, [rule], judgments(("q1", "a", 1), ("q1", "b", 1)))
    assert (report.positive, report.negative, report.unsure) == (1, 0, 5)
    assert (report.recall.hits, report.recall.total) == (1, 2)


def test_rules_are_compared_without_any_judgment() -> None:
    (report,) = compare_rules(PAIRS, [LabelRule(name="r", on="score", at_least=0.0)])
    assert report.precision.value is None and report.precision.high == 1.0


# --- people and labels


def test_grades_that_a_label_set_gave_conflict_with_nothing() -> None:
    assert conflicts(labelled(), judgments(("q1", "a", 0, "labels:x"))).num_rows == 0


def test_conflicts_keep_each_rater_and_put_the_surest_label_first() -> None:
    known = judgments(
        ("q1", "a", 1), ("q1", "b", 0, "x"), ("q1", "b", 0, "y"), ("q1", "d", 2), ("q2", "a", 0)
    )
    rows = conflicts(labelled(), known).to_pylist()
    assert [
        (r["query_id"], r["doc_id"], r["label"], r["relevance"], r["source"]) for r in rows
    ] == [
        ("q1", "d", 0, 2, "ann"),
        ("q1", "b", 1, 0, "x"),
        ("q1", "b", 1, 0, "y"),
    ]  # q2 a is unsure: no label, no conflict
    graded = conflicts(labelled(), judgments(("q1", "a", 2)), graded=True)
    assert graded.num_rows == 1
    assert conflicts(labelled(), judgments(("q1", "a", 2))).num_rows == 0


def test_people_have_the_last_word() -> None:
    table = prefer_human(labelled(), judgments(("q1", "b", 0), ("q9", "z", 3)))
    rows = {(r["query_id"], r["doc_id"]): (r["relevance"], r["source"]) for r in table.to_pylist()}
    assert rows == {
        ("q1", "a"): (1, "label"),
        ("q1", "b"): (0, "human"),
        ("q1", "c"): (1, "label"),
        ("q1", "d"): (0, "label"),
        ("q2", "b"): (0, "label"),
        ("q9", "z"): (3, "human"),
    }


def test_labels_of_edited_or_missing_texts_are_stale() -> None:
    queries = pa.table({"query_id": ["q1"], "text_hash": [text_hash("q1")]})
    documents = pa.table(
        {
            "doc_id": ["a", "b", "c"],
            "text_hash": [text_hash("a"), text_hash("edited"), text_hash("c")],
        }
    )
    rows = stale(labelled(), queries, documents).to_pylist()
    assert [(r["query_id"], r["doc_id"], r["reason"]) for r in rows] == [
        ("q1", "b", "document edited"),
        ("q1", "d", "document gone"),
        ("q2", "a", "query gone"),
        ("q2", "b", "query gone"),
    ]
    reworded = queries.set_column(1, "text_hash", [[text_hash("new wording")]])
    assert stale(labelled(), reworded, documents)["reason"].to_pylist()[0] == "query edited"
