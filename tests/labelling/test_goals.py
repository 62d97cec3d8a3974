"""Intervals of a rule's figures, goals, and judgments that are no sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa
import pytest

from configs.labelling import LabelRule
from reranking.errors import ConfigError
from reranking.labelling.goal import cut_for_precision
from reranking.labelling.intervals import clopper_pearson, proportion
from reranking.labelling.judged import sample_of
from reranking.labelling.rules import (
    apply_rule,
    compare_rules,
)
from tests.support.labels import PAIRS, judgments, scored

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
