"""Rules, precision goals, conflicts and stale labels: small tables worked out by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from configs.labelling import LabelRule
from reranking.errors import ConfigError, InputError
from reranking.fingerprints import text_hash
from reranking.labelling.conflicts import conflicts, prefer_human, stale
from reranking.labelling.goal import cut_for_precision
from reranking.labelling.intervals import clopper_pearson, proportion
from reranking.labelling.judged import sample_of
from reranking.labelling.rules import (
    LABEL_COLUMNS,
    apply_rule,
    compare_rules,
    rule_json,
    without_calibration,
)


def scored(*rows: tuple[Any, ...]) -> pa.Table:
    """Scored pairs from (query, doc, score[, vector_rank, fts_rank[, other_score]])."""
    full = [(*row, None, None, None)[:6] for row in rows]
    return pa.table(
        {
            "query_id": [r[0] for r in full],
            "doc_id": [r[1] for r in full],
            "query_hash": pa.array([text_hash(r[0]) for r in full], pa.binary(16)),
            "doc_hash": pa.array([text_hash(r[1]) for r in full], pa.binary(16)),
            "score": pa.array([r[2] for r in full], pa.float32()),
            "vector_rank": pa.array([r[3] for r in full], pa.int32()),
            "fts_rank": pa.array([r[4] for r in full], pa.int32()),
            "other_score": pa.array([r[5] for r in full], pa.float32()),
        }
    )


def judgments(*rows: tuple[Any, ...]) -> pa.Table:
    """Judgments from (query, doc, relevance[, source])."""
    full = [(*row, "ann")[:4] for row in rows]
    return pa.table(
        {
            "query_id": [r[0] for r in full],
            "doc_id": [r[1] for r in full],
            "relevance": pa.array([r[2] for r in full], pa.int32()),
            "source": [r[3] for r in full],
        }
    )


PAIRS = scored(
    ("q1", "a", 5.0, 1, 2, 4.0),
    ("q1", "b", 3.0, 2, None, -1.0),
    ("q1", "c", 3.0, 3, 1, 2.0),
    ("q1", "d", -2.0, None, 3, -3.0),
    ("q2", "a", 0.5, 1, 1, 1.0),
    ("q2", "b", -4.0, 2, None, None),
)


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


# --- intervals


def test_independent_observations_have_the_exact_interval() -> None:
    from scipy.stats import binomtest

    hit = np.arange(40) < 31
    ours = proportion(hit, np.arange(40))
    theirs = binomtest(31, 40).proportion_ci(method="exact")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


@pytest.mark.parametrize("hits", [0, 12])
def test_the_ends_are_exact_too(hits: int) -> None:
    from scipy.stats import binomtest

    theirs = binomtest(hits, 12).proportion_ci(method="exact")
    low, high = clopper_pearson(np.array(hits), np.array(12))
    assert (float(low), float(high)) == pytest.approx((theirs.low, theirs.high))


def test_copies_within_a_query_add_nothing() -> None:
    random = np.random.default_rng(0)
    verdict = random.random(30) < 0.7
    alone = proportion(verdict, np.arange(30))
    copied = proportion(np.repeat(verdict, 10), np.repeat(np.arange(30), 10))
    assert copied.total == 300
    assert copied.effective == pytest.approx(
        alone.effective, rel=0.15
    )  # and a price for few queries
    assert copied.low == pytest.approx(alone.low, abs=0.02)


def test_the_interval_covers_what_an_unclustered_one_misses() -> None:
    """Queries differ in difficulty (beta-binomial, correlation 1/3): the truth 0.8 must lie in
    nearly 95 of 100 intervals; counting pairs as independent it lies in far fewer."""
    random, clusters, size = np.random.default_rng(1), 25, 12
    covered = plain = 0
    for _ in range(200):
        share = np.repeat(random.beta(1.6, 0.4, clusters), size)
        hit = random.random(clusters * size) < share
        ours = proportion(hit, np.repeat(np.arange(clusters), size))
        low, high = clopper_pearson(np.array(hit.sum()), np.array(len(hit)))
        covered += ours.low <= 0.8 <= ours.high
        plain += low <= 0.8 <= high
    assert covered >= 182
    assert plain < 150


def test_one_query_alone_shows_next_to_nothing() -> None:
    only = proportion(np.ones(50, bool), np.zeros(50))
    assert (only.effective, only.low) == (1.0, pytest.approx(0.025))


# --- precision goals


def collection(
    queries: int, precision_at: Callable[[float], float], seed: int = 0, per: int = 20
) -> tuple[pa.Table, pa.Table]:
    """Pairs with uniform scores whose chance of relevance is `precision_at(score)`."""
    random = np.random.default_rng(seed)
    rows, known = [], []
    for query in range(queries):
        for doc in range(per):
            score = float(random.uniform(-3, 3))
            rows.append((f"q{query}", f"d{doc}", score))
            known.append((f"q{query}", f"d{doc}", int(random.random() < precision_at(score))))
    return scored(*rows), judgments(*known)


def test_a_goal_with_enough_judgments_is_reached_and_holds() -> None:
    """Above score 1 nearly all are relevant, so a cut near 1 keeps a precision of 0.9."""
    pairs, known = collection(120, lambda s: 0.97 if s > 1 else 0.1)
    goal = cut_for_precision(pairs, known, 0.9)
    assert goal.reached and 0.7 < goal.cut < 1.1
    assert goal.precision.low >= 0.9
    # about 780 relevant pairs lie above 1 and 160 in the noise below, out of reach
    assert 0.7 < goal.recall.value < 0.95
    labelled = apply_rule(pairs, goal.rule)
    assert sum(labelled["label"].to_pylist()) == sum(
        s >= goal.cut for s in pairs["score"].to_pylist()
    )


def test_the_figures_come_from_queries_that_did_not_choose() -> None:
    pairs, known = collection(120, lambda s: 0.97 if s > 1 else 0.1)
    goal = cut_for_precision(pairs, known, 0.9)
    positive = sum(goal.cut <= s for s in pairs["score"].to_pylist())
    assert 0.3 * positive < goal.precision.total < 0.7 * positive


def test_few_judgments_do_not_demonstrate_a_goal() -> None:
    pairs, known = collection(6, lambda s: 0.97 if s > 1 else 0.1)
    goal = cut_for_precision(pairs, known, 0.9)
    assert not goal.reached
    assert goal.statement.startswith("precision 0.9 is not demonstrable with 120 judgments")
    with pytest.raises(ConfigError, match="not demonstrable"):
        _ = goal.rule


def test_scores_that_say_nothing_do_not_reach_a_goal() -> None:
    reached = [
        cut_for_precision(*collection(60, lambda s: 0.7, seed=seed), 0.9).reached
        for seed in range(5)
    ]
    assert not any(reached)


def test_no_relevant_judgment_at_all() -> None:
    goal = cut_for_precision(*collection(30, lambda s: 0.0), 0.9)
    assert goal.cut is None and not goal.reached


def test_a_goal_is_the_same_in_every_order_of_rows() -> None:
    pairs, known = collection(40, lambda s: 0.97 if s > 1 else 0.1)
    shuffled = pairs.take(np.random.default_rng(0).permutation(len(pairs)))
    assert cut_for_precision(pairs, known, 0.8) == cut_for_precision(shuffled, known, 0.8)


@pytest.mark.parametrize("target", [0, 1, 90])
def test_a_target_is_a_share(target: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        cut_for_precision(PAIRS, judgments(("q1", "a", 1)), target)


# --- people and labels


def test_grades_that_a_label_set_gave_conflict_with_nothing() -> None:
    assert conflicts(labelled(), judgments(("q1", "a", 0, "labels:x"))).num_rows == 0


def labelled() -> pa.Table:
    calibrated = PAIRS.append_column("probability", pa.array([0.9, 0.6, 0.6, 0.05, 0.55, 0.01]))
    return apply_rule(calibrated, LabelRule(name="r", at_least=0.5, unsure=(0.5, 0.58)))


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


def test_judgments_of_relevant_pairs_alone_show_no_precision() -> None:
    """Where nobody judged a miss, every rule would seem right."""
    rows = [(f"q{n}", "d", float(n)) for n in range(60)]
    known = judgments(*((query, doc, 1) for query, doc, _ in rows))
    goal = cut_for_precision(scored(*rows), known, 0.5)
    assert not goal.reached and goal.cut is None
    assert "all of them are relevant" in goal.statement
    (report,) = compare_rules(
        scored(*rows), [LabelRule(name="r", on="score", at_least=30.0)], known
    )
    assert report.precision.value is None
    assert (report.recall.hits, report.recall.total) == (30, 60)


def positives_and_a_sample(
    below: Iterable[int], above: Iterable[int] = ()
) -> tuple[pa.Table, pa.Table]:
    """100 queries with one pair each, score = number; an import that knows relevant ones only."""
    pairs = scored(*((f"q{n}", "d", float(n)) for n in range(100)))
    imported = [(f"q{n}", "d", 1, "imported") for n in range(60, 100, 2)]
    ann = [(f"q{n}", "d", int(n % 3 == 0), "ann") for n in (*below, *above)]
    return pairs, judgments(*imported, *ann)


def test_judgments_that_are_no_sample_give_no_precision() -> None:
    """The journey: positives only, and people's judgments of pairs far below the cut."""
    pairs, known = positives_and_a_sample(range(20, 40))
    rule = LabelRule(name="r", on="score", at_least=60.0)
    (report,) = compare_rules(pairs, [rule], known)
    assert report.precision.value is None and "unknown" in report.precision_said
    assert (report.recall.hits, report.recall.total) == (20, 27)  # all the import's, none of ann's


def test_a_sample_all_over_the_positives_gives_a_precision_of_its_own() -> None:
    pairs, known = positives_and_a_sample(range(20, 40), range(60, 100, 3))
    (report,) = compare_rules(pairs, [LabelRule(name="r", on="score", at_least=60.0)], known)
    assert report.no_sample is None
    assert (report.precision.hits, report.precision.total) == (14, 14)
    pairs, known = positives_and_a_sample(range(20, 40), range(61, 100, 3))
    (report,) = compare_rules(pairs, [LabelRule(name="r", on="score", at_least=60.0)], known)
    assert report.precision.hits == 0 < report.precision.total  # the import would say 1.0


def test_a_part_of_the_positives_that_nobody_judged_is_named() -> None:
    pairs, known = positives_and_a_sample(range(20, 40), range(60, 70))
    rule = LabelRule(name="r", on="score", at_least=60.0)
    (report,) = compare_rules(pairs, [rule], known)
    assert report.precision.value is None
    assert "of 40 positive pairs none is judged between score 70 and 79" in report.precision_said
    goal = cut_for_precision(pairs, known.filter(pa.array([False] * 20 + [True] * 30)), 0.1)
    assert not goal.reached and "no sample" in goal.statement or goal.cut is None


def test_a_source_that_finds_everything_relevant_counts_for_no_precision_only_if_it_is_large() -> (
    None
):
    few, many = judgments(*(("q", f"d{n}", 1) for n in range(19))), [("q", "e", 0, "bob")]
    assert sample_of(few, 1) == (few, {}) or sample_of(few, 1)[1] == {}
    mixed = judgments(*(("q", f"d{n}", 1) for n in range(20)), *many)
    rest, left_out = sample_of(mixed, 1)
    assert left_out == {"ann": 20} and rest["source"].to_pylist() == ["bob"]
    alone, left_out = sample_of(judgments(*(("q", f"d{n}", 1) for n in range(20))), 1)
    assert alone.num_rows == 20 and left_out == {"ann": 20}
