"""Calibration: the maps against scikit-learn's, quality without leaks, refusals that say why."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from reranking.errors import InputError
from reranking.fingerprints import text_hash
from reranking.labelling import calibration as cal

RERANKER = "a" * 32


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def tables(
    scores: Sequence[float], positive: Sequence[bool], queries: Sequence[str]
) -> tuple[pa.Table, pa.Table]:
    """Scored pairs and judgments, one document per score."""
    docs = [f"d{n}" for n in range(len(scores))]
    pairs = pa.table(
        {
            "query_id": queries,
            "doc_id": docs,
            "query_hash": pa.array([text_hash(q) for q in queries], pa.binary(16)),
            "doc_hash": pa.array([text_hash(d) for d in docs], pa.binary(16)),
            "score": pa.array(scores, pa.float32()),
            "vector_rank": pa.nulls(len(scores), pa.int32()),
            "fts_rank": pa.nulls(len(scores), pa.int32()),
        }
    )
    judgments = pa.table(
        {
            "query_id": queries,
            "doc_id": docs,
            "relevance": pa.array(np.asarray(positive, int), pa.int32()),
            "source": ["ann"] * len(scores),
        }
    )
    return pairs, judgments


def drawn(
    queries: int = 80, per: int = 10, slope: float = 1.5, intercept: float = -0.5, seed: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.bool_], list[str]]:
    """Pairs whose relevance really follows a logistic curve of their score."""
    random = np.random.default_rng(seed)
    scores = random.normal(0, 2, queries * per).astype(np.float32)
    positive = random.random(len(scores)) < sigmoid(slope * scores + intercept)
    return scores, positive, np.repeat([f"q{n}" for n in range(queries)], per).tolist()


@functools.cache
def fitted(seed: int = 1) -> cal.Calibration:
    result = cal.fit(*tables(*drawn(seed=seed)), RERANKER)
    assert isinstance(result, cal.Calibration)
    return result


def test_the_logistic_map_is_scikit_learns() -> None:
    from sklearn.calibration import _sigmoid_calibration

    scores, positive, _ = drawn()
    a, b = _sigmoid_calibration(scores.astype(float), positive)
    ours = cal._fit_platt(scores.astype(float), positive)
    assert (ours.slope, ours.intercept) == pytest.approx((-a, -b), abs=2e-3)


def test_the_logistic_map_stays_finite_where_scores_separate_the_classes() -> None:
    scores = np.linspace(-5, 5, 40)
    ours = cal._fit_platt(scores, scores > 0)
    assert 0 < ours.slope < 50


def test_the_isotonic_map_is_scikit_learns_inside_platts_targets() -> None:
    from sklearn.isotonic import IsotonicRegression

    scores, positive, _ = drawn()
    scores = scores.astype(float)
    ours = cal._fit_isotonic(scores, positive)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(scores, positive.astype(float))
    grid = np.concatenate([scores, [-99.0, 99.0]])  # between knots a clipped end is cut off
    low, high = 1 / ((~positive).sum() + 2), (positive.sum() + 1) / (positive.sum() + 2)
    assert ours(grid) == pytest.approx(np.clip(theirs.predict(grid), low, high))
    assert ours(grid).min() > 0 and ours(grid).max() < 1


def test_a_logistic_truth_is_recovered_and_chosen() -> None:
    result = fitted()
    assert result.method == "platt"
    assert result.log_losses["platt"] < result.log_losses["isotonic"]
    assert result.map.slope == pytest.approx(1.5, abs=0.25)
    assert result.reliability.brier < 0.6 * result.reliability.base_brier
    assert result.reliability.ece < 0.06


def test_a_step_is_chosen_isotonic() -> None:
    random = np.random.default_rng(3)
    scores = random.uniform(-4, 4, 2000)
    truth = np.where(scores < -1, 0.05, np.where(scores < 2, 0.5, 0.9))
    queries = [f"q{n // 10}" for n in range(2000)]
    result = cal.fit(*tables(scores, random.random(2000) < truth, queries), RERANKER)
    assert result.method == "isotonic"
    assert result.apply(np.array([-3.0, 0.5, 3.5]), RERANKER) == pytest.approx(
        [0.05, 0.5, 0.9], abs=0.08
    )


def test_reliability_is_scikit_learns() -> None:
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import brier_score_loss, log_loss

    random = np.random.default_rng(5)
    predicted = random.random(500)
    positive = random.random(500) < predicted**2
    quality = cal.reliability(predicted, positive, np.arange(500) // 5)
    observed, mean = calibration_curve(positive, predicted, n_bins=10)
    assert [b.observed for b in quality.bins] == pytest.approx(observed)
    assert [b.predicted for b in quality.bins] == pytest.approx(mean)
    assert quality.brier == pytest.approx(brier_score_loss(positive, predicted))
    assert quality.log_loss == pytest.approx(log_loss(positive, predicted))
    counts = np.array([b.count for b in quality.bins])
    assert counts.sum() == 500
    assert quality.ece == pytest.approx(float((counts * abs(observed - mean)).sum() / 500))
    assert all(b.low <= b.observed <= b.high for b in quality.bins)


def test_quality_comes_from_queries_the_map_has_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map that learns scores by heart, where each query has one score and one verdict: it would
    be perfect if any pair of a query, or the choice of the map, had seen the query."""
    queries, per = 50, 10
    scores = np.repeat(np.arange(queries, dtype=float), per)
    verdict = np.repeat(np.arange(queries) % 2 == 0, per)

    def by_heart(
        scores: NDArray[np.float64], positive: NDArray[np.bool_]
    ) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
        known = dict(zip(scores.tolist(), positive.tolist(), strict=True))
        return lambda asked: np.array([known.get(one, 0.5) for one in asked.tolist()], float)

    monkeypatch.setattr(cal, "_FITTERS", {"by heart": by_heart})
    held_out = cal._cross_fitted(scores, verdict, np.repeat(np.arange(queries), per))
    assert set(held_out) == {0.5}
    chosen, losses = cal._choose(scores, verdict, np.repeat(np.arange(queries), per))
    assert losses["by heart"] == pytest.approx(np.log(2))
    assert chosen(scores).tolist() == verdict.tolist()


def test_another_rerankers_scores_are_refused() -> None:
    with pytest.raises(InputError, match="belongs to reranker aaa"):
        fitted().apply(np.array([1.0]), "b" * 32)


def test_it_survives_json_with_its_fingerprint() -> None:
    result = fitted()
    again = cal.Calibration.from_json(result.to_json())
    assert again == result and again.fingerprint == result.fingerprint
    assert fitted(seed=2).fingerprint != result.fingerprint
    scores = np.linspace(-5, 5, 11)
    assert again.apply(scores, RERANKER).tolist() == result.apply(scores, RERANKER).tolist()


@pytest.mark.parametrize("change", [{"format": 9}, {"method": "forest"}, {"map": {}}, {"new": 1}])
def test_foreign_json_is_refused(change: dict[str, object]) -> None:
    stored = {**json.loads(fitted().to_json()), **change}
    with pytest.raises(InputError, match="not a stored calibration"):
        cal.Calibration.from_json(json.dumps(stored))


@pytest.mark.parametrize("text", ["", "[]", "null", "{}"])
def test_no_calibration_at_all_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        cal.Calibration.from_json(text)


def test_positive_judgments_alone_are_not_enough() -> None:
    scores, _, queries = drawn()
    result = cal.fit(*tables(scores, np.ones(len(scores)), queries), RERANKER)
    assert isinstance(result, cal.Uncalibrated)
    assert result.reason.startswith("all 800 judged pairs are relevant")


def test_too_few_judgments_are_counted() -> None:
    result = cal.fit(*tables(*drawn(queries=3)), RERANKER)
    assert isinstance(result, cal.Uncalibrated)
    assert (result.judged, result.queries) == (30, 3)
    assert "at least 20 of each in 10 queries" in result.reason


def test_no_judgments_at_all() -> None:
    pairs, judgments = tables(*drawn(queries=3))
    result = cal.fit(pairs, judgments.slice(0, 0), RERANKER)
    assert isinstance(result, cal.Uncalibrated) and result.judged == 0


def test_negatives_of_one_query_alone_are_not_enough() -> None:
    scores = np.linspace(-3, 3, 300)
    queries = [f"q{n // 25}" for n in range(300)]
    result = cal.fit(*tables(scores, np.arange(300) >= 25, queries), RERANKER)
    assert isinstance(result, cal.Uncalibrated) and "too few queries" in result.reason


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_scale_of_the_scores_does_not_matter(scale: float) -> None:
    scores, positive, _ = drawn()
    ours = cal._fit_platt(scores * scale, positive)
    plain = cal._fit_platt(scores.astype(float), positive)
    assert ours.slope * scale == pytest.approx(plain.slope, rel=1e-4)
    assert ours.intercept == pytest.approx(plain.intercept, rel=1e-4)


def test_equal_scores_are_not_calibrated() -> None:
    _, positive, queries = drawn()
    result = cal.fit(*tables(np.ones(len(positive)), positive, queries), RERANKER)
    assert isinstance(result, cal.Uncalibrated) and "slope 0" in result.reason


def test_scores_that_run_backwards_are_not_calibrated() -> None:
    result = cal.fit(*tables(*drawn(slope=-2.0)), RERANKER)
    assert isinstance(result, cal.Uncalibrated) and "do not go with more" in result.reason


def test_grades_of_another_wording_are_not_used() -> None:
    pairs, judgments = tables(*drawn())
    old = pa.array([text_hash("old wording")] * len(judgments), pa.binary(16))
    result = cal.fit(pairs, judgments.append_column("query_hash", old), RERANKER)
    assert isinstance(result, cal.Uncalibrated) and result.judged == 0


def test_the_lowest_relevant_grade_is_a_choice() -> None:
    scores, positive, queries = drawn()
    result = cal.fit(*tables(scores, positive + 1, queries), RERANKER, relevant=2)
    assert isinstance(result, cal.Calibration)
    assert (result.relevant, result.positives) == (2, int(positive.sum()))


def test_broken_scores_are_named() -> None:
    scores, positive, queries = drawn()
    scores[7] = np.nan
    with pytest.raises(InputError, match="1 scores are null, NaN or infinite.*'q0'.*'d7'"):
        cal.fit(*tables(scores, positive, queries), RERANKER)


def test_the_probability_column_is_added_and_replaced() -> None:
    pairs, _ = tables(*drawn(queries=2))
    result = fitted()
    once = cal.with_probability(pairs, result, RERANKER)
    twice = cal.with_probability(once, result, RERANKER)
    assert once.equals(twice)
    expected = result.apply(pairs["score"].to_numpy(), RERANKER)
    assert once["probability"].to_numpy() == pytest.approx(expected)
