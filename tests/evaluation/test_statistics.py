"""Statistics: scipy and worked examples as oracles, and simulations with a known truth."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from reranking.errors import InputError
from reranking.evaluation.statistics import (
    bootstrap_interval,
    compare_paired,
    corrected,
    detectable_difference,
    randomisation_p,
)


def sample(n: int, mean: float = 0.03, seed: int = 0) -> np.ndarray:
    """Differences as measures give them: many ties, a skewed rest."""
    rng = np.random.default_rng(seed)
    values = rng.normal(mean, 0.2, n) + rng.exponential(0.05, n) - 0.05
    return np.where(rng.random(n) < 0.3, 0.0, values)


def test_holm_worked_example() -> None:
    """0.005 x 4, 0.01 x 3, 0.03 x 2, then 0.04 may not fall below its predecessor."""
    assert corrected([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert corrected([0.9, 0.8]) == [1.0, 1.0]
    assert corrected([0.04]) == [0.04]
    assert corrected([]) == []


def test_benjamini_hochberg_published_example() -> None:
    """Benjamini & Hochberg (1995), section 4: four of 15 hypotheses are rejected at 0.05."""
    p = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344]
    p += [0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    assert sum(q <= 0.05 for q in corrected(p, "bh")) == 4
    assert sum(q <= 0.05 for q in corrected(p, "holm")) == 3  # Hochberg and Bonferroni: 3 too
    shuffled = p[::-1]
    assert corrected(shuffled, "bh") == pytest.approx(stats.false_discovery_control(shuffled))


def by_hand(differences: np.ndarray) -> tuple[float, float]:
    """BCa step by step: Efron & Tibshirani (1993), 14.3; the jackknife of a mean in closed form."""
    n, mean = len(differences), differences.mean()
    drawn = np.random.default_rng(1).integers(0, n, (20_000, n))
    means = differences[drawn].mean(axis=1)
    bias = stats.norm.ppf(((means < mean).mean() + (means <= mean).mean()) / 2)
    deviations = differences - mean
    acceleration = (deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5)
    z = bias + stats.norm.ppf([0.025, 0.975])
    low, high = np.quantile(means, stats.norm.cdf(bias + z / (1 - acceleration * z)))
    return float(low), float(high)


@pytest.mark.parametrize("n", [30, 60, 400])
def test_interval_agrees_with_the_steps_by_hand(n: int) -> None:
    differences = sample(n) ** 3  # very skewed: the percentile and the t interval lie elsewhere
    assert bootstrap_interval(differences) == pytest.approx(by_hand(differences), rel=0.05)


def test_importing_the_statistics_does_not_import_scipy() -> None:
    code = "import sys, reranking.evaluation.comparison\nassert 'scipy.stats' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_exact_p_value_agrees_with_scipy_and_by_hand() -> None:
    assert randomisation_p(np.array([1.0, 2.0, 3.0])) == pytest.approx(2 / 8)
    assert randomisation_p(np.array([1.0, 2.0, -3.0, 0.0])) == 1.0
    for seed in range(5):
        differences = sample(11, seed=seed)
        theirs = stats.permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=np.inf
        )
        assert randomisation_p(differences) == pytest.approx(theirs.pvalue)


def test_drawn_p_value_is_close_to_the_t_test() -> None:
    differences = sample(400, mean=0.015)
    theirs = stats.ttest_1samp(differences, 0.0).pvalue
    assert 0.01 < theirs < 0.5
    assert randomisation_p(differences) == pytest.approx(theirs, abs=0.02)


def test_deterministic() -> None:
    base, candidate = np.zeros(50), sample(50)
    assert compare_paired(base, candidate) == compare_paired(base, candidate)


def test_degenerate_samples_are_not_resampled(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("resampled")

    monkeypatch.setattr(np.random, "default_rng", refuse)
    none = compare_paired(np.array([]), np.array([]))
    assert (none.queries, none.difference, none.low, none.p) == (0, None, None, None)
    one = compare_paired(np.array([0.5]), np.array([0.7]))
    assert (one.low, one.high, one.p, one.wins) == (None, None, 1.0, 1)
    same = compare_paired(np.full(30, 0.1) * 3, np.full(30, 0.3))  # equal up to rounding
    assert (same.low, same.high, same.p, same.ties) == (0.0, 0.0, 1.0, 30)
    assert same.detectable is None
    constant = bootstrap_interval(np.full(30, 0.25))
    assert constant == (0.25, 0.25)


def test_constant_differences_are_significant() -> None:
    constant = compare_paired(np.zeros(30), np.full(30, 0.25))
    assert constant.p == pytest.approx(1e-4)
    assert (constant.wins, constant.losses, constant.detectable) == (30, 0, None)


def test_values_that_cannot_be_paired_are_refused() -> None:
    with pytest.raises(InputError, match="align"):
        compare_paired(np.zeros(2), np.zeros(3))
    with pytest.raises(InputError, match="finite"):
        compare_paired(np.zeros(2), np.array([0.0, np.nan]))


def test_null_data_give_the_nominal_error_rate() -> None:
    """600 comparisons of a system with itself under noise: 5 % +- 2.7 % (3 sigma) are found."""
    found = covered = 0
    for seed in range(600):
        differences = np.random.default_rng(seed).normal(0.0, 0.2, 50)
        p = randomisation_p(differences, resamples=999)
        interval = bootstrap_interval(differences, resamples=999)
        assert p is not None and interval is not None
        found += p < 0.05
        covered += interval[0] <= 0 <= interval[1]
    assert found / 600 == pytest.approx(0.05, abs=0.027)
    assert covered / 600 == pytest.approx(0.94, abs=0.03)  # BCa covers a little less at n = 50


def test_a_detectable_effect_is_found_four_times_in_five() -> None:
    scale, n = 0.2, 60
    effect = 2.8016 * scale / n**0.5  # 1.96 + 0.8416: alpha 5 % two-sided, power 80 %
    exact = np.tile([-1.0, 1.0], n // 2) * scale * ((n - 1) / n) ** 0.5
    assert detectable_difference(exact) == pytest.approx(effect, rel=1e-3)
    found = 0
    for seed in range(400):
        differences = np.random.default_rng(seed).normal(effect, scale, n)
        p = randomisation_p(differences, resamples=499)
        assert p is not None
        found += p < 0.05
    assert found / 400 == pytest.approx(0.8, abs=0.07)
