"""Is a difference between two systems real? Paired statistics over per-query differences.

Only means of paired differences are tested: an interval by the bootstrap (BCa, scipy's), a p-value
by randomisation, corrections for testing several things at once. Samples that cannot be resampled
(none, one, or equal differences) are answered directly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from reranking.errors import InputError

Floats = npt.NDArray[np.float64]
Correction = Literal["holm", "bh"]

RESAMPLES: Final = 9999
SEED: Final = 17  # fixed: the same two runs always get the same interval and p-value
CONFIDENCE: Final = 0.95
POWER: Final = 0.8

_NORMAL: Final = NormalDist()
_CELLS: Final = 4_000_000  # resampled differences held at once: 32 MB
_TIE: Final = 1e-12  # differences below this are rounding, not wins


@dataclass(frozen=True)
class Paired:
    """What the per-query values of two systems say about the difference of their means.

    `difference` is candidate minus base. `low` and `high` are None below two queries;
    `detectable` is None if the differences do not vary, for then nothing is known of it.
    """

    queries: int
    base: float | None
    candidate: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    wins: int
    ties: int
    losses: int
    detectable: float | None


def compare_paired(base: Floats, candidate: Floats, *, resamples: int = RESAMPLES) -> Paired:
    """Return the paired comparison of two aligned arrays of per-query values.

    Raises InputError for arrays of unequal length or with values that are not finite.
    """
    if base.shape != candidate.shape or base.ndim != 1:
        raise InputError(f"paired values must align; got {base.shape} and {candidate.shape}")
    differences = _rounded(candidate - base)
    if not np.isfinite(differences).all():
        raise InputError("per-query values must be finite numbers; some are NaN or infinite")
    if not len(differences):
        return Paired(0, None, None, None, None, None, None, 0, 0, 0, None)
    interval = bootstrap_interval(differences, resamples=resamples)
    low, high = interval if interval else (None, None)
    return Paired(
        queries=len(differences),
        base=float(base.mean()),
        candidate=float(candidate.mean()),
        difference=float(differences.mean()),
        low=low,
        high=high,
        p=randomisation_p(differences, resamples=resamples),
        wins=int((differences > 0).sum()),
        ties=int((differences == 0).sum()),
        losses=int((differences < 0).sum()),
        detectable=detectable_difference(differences),
    )


def _rounded(differences: Floats) -> Floats:
    """`differences` with rounding noise set to zero, so that ties are ties."""
    return np.where(np.abs(differences) < _TIE, 0.0, differences)


def bootstrap_interval(
    differences: Floats, *, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """Return the interval of the mean difference: bias-corrected and accelerated bootstrap (BCa).

    None below two differences; (c, c) if all equal c. Efron & Tibshirani (1993), chapter 14.
    """
    if len(differences) < 2:
        return None
    if np.ptp(differences) < _TIE:
        return float(differences[0]), float(differences[0])
    from scipy.stats import bootstrap  # a second to import: not for those who compare nothing

    interval = bootstrap(
        (differences,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, _CELLS // len(differences)),
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def randomisation_p(differences: Floats, *, resamples: int = RESAMPLES) -> float | None:
    """Return the two-sided p-value of "the two systems are interchangeable" for the mean.

    The sign of each difference is flipped at random (Fisher; Smucker et al., CIKM 2007): all ways
    are counted if they are at most `resamples`, else the observed one counts among the drawn.
    Differences of zero have no sign and drop out. None without differences.
    """
    if not len(differences):
        return None
    moving = differences[differences != 0]
    if not len(moving):
        return 1.0
    n, total = len(moving), moving.sum()
    limit = abs(total) * (1 - 1e-9)  # sums of the same numbers in another order differ a little
    if 2**n <= resamples:
        patterns = np.arange(2**n)[:, None] >> np.arange(n) & 1
        sums = total - 2 * (patterns @ moving)
        return float((np.abs(sums) >= limit).mean())

    rng = np.random.default_rng(SEED)
    rows = max(1, _CELLS // n)
    extreme = 0
    for start in range(0, resamples, rows):
        drawn = min(rows, resamples - start)
        bits = np.unpackbits(rng.integers(0, 256, (drawn, -(-n // 8)), dtype=np.uint8), axis=1)
        drawn_sums: Floats = total - 2 * (bits[:, :n].astype(np.float64) @ moving)
        extreme += int((np.abs(drawn_sums) >= limit).sum())
    return (extreme + 1) / (resamples + 1)


def detectable_difference(differences: Floats) -> float | None:
    """Return the smallest true difference that a two-sided test finds with probability POWER.

    (z(1 - alpha/2) + z(POWER)) * sd / sqrt(n), alpha = 1 - CONFIDENCE: the normal approximation of
    the paired t-test's power (Cohen 1988; for topic sets, Sakai 2016). None if the differences do
    not vary.
    """
    if len(differences) < 2 or np.ptp(differences) < _TIE:
        return None
    z = _NORMAL.inv_cdf((1 + CONFIDENCE) / 2) + _NORMAL.inv_cdf(POWER)
    return float(z * differences.std(ddof=1) / math.sqrt(len(differences)))


def corrected(p_values: Sequence[float], method: Correction = "holm") -> list[float]:
    """Return the adjusted p-values, in the given order.

    `holm` bounds the chance of any false finding (Holm 1979), `bh` the expected share of false
    ones among the findings (Benjamini & Hochberg 1995).
    """
    count = len(p_values)
    if not count:
        return []
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    steps = np.arange(count)
    if method == "holm":
        adjusted = np.maximum.accumulate(values[order] * (count - steps))
    else:
        scaled = values[order] * count / (steps + 1)
        adjusted = np.minimum.accumulate(scaled[::-1])[::-1]
    result = np.empty(count)
    result[order] = np.minimum(adjusted, 1.0)
    return [float(p) for p in result]
