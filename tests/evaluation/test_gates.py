"""Gates: each condition passes and fails, and nothing passes because it could not be checked."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from configs.evaluation import ComparisonSettings, Gate
from reranking.errors import ConfigError
from reranking.evaluation.comparison import Comparison, compare
from reranking.evaluation.gates import GateResult, check_gates
from tests.support.rankings import Qrels, Rankings, best, judged, side, world


def compared(base: Rankings, candidate: Rankings, qrels: Qrels) -> Comparison:
    sides = side("first", base), side("new", candidate)
    return compare(sides[0], sides[1:], judged(qrels), ComparisonSettings())[0]


def failed_reasons(results: list[GateResult]) -> list[str]:
    return [result.reason for result in results if not result.passed]


RANKINGS, QRELS = world(40)
BETTER = compared(RANKINGS, best(RANKINGS, QRELS), QRELS)
WORSE = compared(best(RANKINGS, QRELS), RANKINGS, QRELS)
GAIN = BETTER.primary.paired.difference or 0.0


def reasons(comparison: Comparison, queries: pa.Table | None = None, **gate: object) -> list[str]:
    results = check_gates(
        [Gate(**{"metric": "nDCG@10", **gate})],  # type: ignore[arg-type]
        comparison=comparison,
        queries=queries,
    )
    assert results
    return failed_reasons(results)


def test_a_reranker_that_does_nothing_fails() -> None:
    idle = compared(RANKINGS, RANKINGS, QRELS)
    (reason,) = reasons(idle, min_absolute_change=0.001)
    assert reason == "nDCG@10 gained +0.0000, must gain at least +0.001 (40 queries)"
    assert len(reasons(idle, min_relative_change=0.01, alpha=0.05)) == 2
    assert reasons(idle, min_absolute_change=0.0) == []


def test_a_shuffled_reranker_fails() -> None:
    """A first stage with some sense in it, and a reranker that throws its order away."""
    rng = np.random.default_rng(3)
    first = best(RANKINGS, QRELS)
    shuffled = {q: [str(d) for d in rng.permutation(docs)] for q, docs in first.items()}
    result = compared(first, shuffled, QRELS)
    assert result.verdict == "regressed"
    assert reasons(result, min_absolute_change=0.001)
    assert reasons(result, alpha=0.05)
    assert reasons(result, max_regressed_queries=5)


@pytest.mark.parametrize(
    "gate",
    [
        {"threshold": 0.99},
        {"min_absolute_change": GAIN - 0.001},
        {"min_absolute_change": 0.05, "alpha": 0.01},
        {"min_relative_change": 0.1},
        {"alpha": 0.05},
        {"min_judged": 1.0},
        {"max_regressed_queries": 0},
        {"metric": "NDCG@10", "threshold": 0.9},
        {"metric": "RR@10", "min_absolute_change": 0.01},
    ],
)
def test_passes(gate: dict[str, object]) -> None:
    assert reasons(BETTER, **gate) == []


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({"threshold": 0.9}, "must be at least 0.9"),
        ({"min_absolute_change": -0.01}, "must gain at least -0.01"),
        ({"min_relative_change": -0.01}, "must gain at least -1.00%"),
        ({"alpha": 0.05}, "changed by -"),
        ({"max_regressed_queries": 3}, "queries, at most 3 may"),
        ({"threshold": 0.4, "greater_is_better": False}, "must be at most 0.4"),
    ],
)
def test_fails_with_its_reason(gate: dict[str, object], said: str) -> None:
    (reason,) = reasons(WORSE, **gate)
    assert said in reason


def test_lower_is_better_turns_gains_around() -> None:
    assert reasons(WORSE, min_absolute_change=0.1, alpha=0.05, greater_is_better=False) == []
    assert reasons(BETTER, min_absolute_change=0.0, greater_is_better=False)


def test_an_insignificant_gain_is_not_enough() -> None:
    other = {**RANKINGS, "q0": best(RANKINGS, QRELS)["q0"], "q1": best(RANKINGS, QRELS)["q1"]}
    lucky = compared(RANKINGS, other, QRELS)
    assert reasons(lucky, min_absolute_change=0.001) == []
    (reason,) = reasons(lucky, min_absolute_change=0.001, alpha=0.05)
    assert "must be significant" in reason
    assert reasons(lucky, alpha=0.05) == []


def test_little_judged_fails() -> None:
    sparse = {q: {"d0": 1} for q in QRELS}
    (reason,) = reasons(compared(RANKINGS, RANKINGS, sparse), min_judged=0.5)
    assert "judged, must be at least 50.0%" in reason


def test_slices_are_gated_one_by_one() -> None:
    mixed = {q: docs if q < "q2" else best(RANKINGS, QRELS)[q] for q, docs in RANKINGS.items()}
    base = {q: best(RANKINGS, QRELS)[q] if q < "q2" else docs for q, docs in RANKINGS.items()}
    queries = pa.table(
        {
            "query_id": list(RANKINGS),
            "text": ["two words"] * len(RANKINGS),
            "tags": [["spoiled" if q < "q2" else "lifted"] for q in RANKINGS],
        }
    )
    result = compared(base, mixed, QRELS)
    gate = {"min_absolute_change": 0.0, "alpha": 0.05}
    assert reasons(result, queries, **gate, slices=("tag:lifted", "length:1-2 words")) == []
    failed = reasons(result, queries, **gate, slices=("*",))
    assert len(failed) == 2
    assert all("in tag:spoiled" in reason for reason in failed)
    assert (
        "no compared query is in the slice tag:x"
        in reasons(result, queries, threshold=0.0, slices=("tag:x",))[0]
    )
    assert "need the query set" in reasons(result, threshold=0.0, slices=("*",))[0]


def test_what_cannot_be_checked_fails() -> None:
    nothing = compared(RANKINGS, RANKINGS, {})
    assert "no query could be compared" in reasons(nothing, threshold=0.0)[0]
    (reason,) = reasons(BETTER, metric="P@3", threshold=0.0)
    assert reason.startswith(
        "P@3 could not be gated: it was not measured, only R@20 (hybrid), RR@10"
    )
    assert reasons(BETTER, query_type="fts", threshold=0.0)


def test_without_a_baseline_the_summary_serves_thresholds() -> None:
    summary = pa.table(
        {
            "query_type": ["hybrid"] * 3,
            "stage": ["first", "reranked", "reranked"],
            "measure": ["nDCG@10", "nDCG@10", "Judged@10"],
            "queries": [9, 9, 9],
            "mean": [0.3, 0.6, 0.4],
        }
    )

    def failed(**gate: object) -> list[str]:
        given = Gate(**{"metric": "nDCG@10", **gate})  # type: ignore[arg-type]
        return failed_reasons(check_gates([given], summary=summary))

    assert failed(threshold=0.6, min_judged=0.4) == []
    assert "is 0.6000, must be at least 0.7" in failed(threshold=0.7)[0]
    assert "judged" in failed(min_judged=0.5)[0]
    assert "promote a run first" in failed(min_absolute_change=0.0)[0]
    assert "was not measured" in failed(metric="RR@10", threshold=0.0)[0]
    assert failed(query_type="fts", threshold=0.0) == [
        "nDCG@10 could not be gated: it was not measured, only nothing"
    ]
    bare = summary.slice(0, 2)
    results = check_gates([Gate(metric="nDCG@10", threshold=0.6, min_judged=0.1)], summary=bare)
    assert failed_reasons(results) == ["nDCG@10 could not be gated: Judged@10 was not measured"]
    assert failed_reasons(check_gates([Gate(metric="nDCG@10", threshold=0.0)])) != []


def test_relative_change_over_nothing() -> None:
    qrels = {q: {"z": 1} for q in RANKINGS}
    found = {q: ["z", *docs] for q, docs in RANKINGS.items()}
    sides = side("a", RANKINGS, documents={"z": "z"}), side("b", found)
    result = compare(sides[0], [sides[1]], judged(qrels), ComparisonSettings())[0]
    assert result.primary.paired.base == 0.0
    assert reasons(result, min_relative_change=0.5) == []
    idle = compare(sides[0], [sides[0]], judged(qrels), ComparisonSettings())[0]
    assert reasons(idle, min_relative_change=0.5)
    assert reasons(idle, min_relative_change=0.0) == []


def test_senseless_gates_are_refused() -> None:
    with pytest.raises(ValidationError, match="no condition"):
        Gate(metric="nDCG@10")
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        Gate(metric="nDCG@10", alpha=5.0)
    with pytest.raises(ConfigError, match="bogus"):
        check_gates([Gate(metric="bogus", threshold=1.0)], comparison=BETTER)
