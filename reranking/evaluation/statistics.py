"""Is a difference between two systems real? Paired statistics over per-query differences.

Only means of paired differences are tested, so everything here is plain numpy: an interval by the
bootstrap (BCa), a p-value by randomisation, corrections for testing several things at once.
Samples that cannot be resampled (none, one, or equal differences) are answered directly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
    `detectable` is None where the differences do not vary, since then nothing can be said of it.
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


def compare_paired(
    base: Floats, candidate: Floats, *, resamples: int = RESAMPLES, seed: int = SEED
) -> Paired:
    """The paired comparison of two aligned arrays of per-query values.

    Raises InputError for arrays of unequal length or with values that are not finite.
    """
    if base.shape != candidate.shape or base.ndim != 1:
        raise InputError(f"paired values must align; got {base.shape} and {candidate.shape}")
    differences = _rounded(candidate - base)
    if not np.isfinite(differences).all():
        raise InputError("per-query values must be finite numbers; some are NaN or infinite")
    if not len(differences):
        return Paired(0, None, None, None, None, None, None, 0, 0, 0, None)
    interval = bootstrap_interval(differences, resamples=resamples, seed=seed)
    low, high = interval if interval else (None, None)
    return Paired(
        queries=len(differences),
        base=float(base.mean()),
        candidate=float(candidate.mean()),
        difference=float(differences.mean()),
        low=low,
        high=high,
        p=randomisation_p(differences, resamples=resamples, seed=seed),
        wins=int((differences > 0).sum()),
        ties=int((differences == 0).sum()),
        losses=int((differences < 0).sum()),
        detectable=detectable_difference(differences),
    )


def _rounded(differences: Floats) -> Floats:
    """`differences` with rounding noise set to zero, so that ties are ties."""
    return np.where(np.abs(differences) < _TIE, 0.0, differences)


def bootstrap_interval(
    differences: Floats,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[float, float] | None:
    """The interval of the mean difference: bias-corrected and accelerated bootstrap.

    None below two differences; (c, c) where all equal c. Efron & Tibshirani (1993), chapter 14;
    the jackknife of a mean has a closed form, so the acceleration costs one pass.
    """
    if len(differences) < 2:
        return None
    if np.ptp(differences) < _TIE:
        return float(differences[0]), float(differences[0])
    n, mean = len(differences), differences.mean()

    def draw(rng: np.random.Generator, rows: int) -> Floats:
        means: Floats = differences[rng.integers(0, n, (rows, n), dtype=np.int32)].mean(axis=1)
        return means

    means = np.sort(np.concatenate(list(_batches(draw, n, resamples, seed))))
    share = (np.searchsorted(means, mean) + np.searchsorted(means, mean, "right")) / 2
    bias = _NORMAL.inv_cdf(min(max(share / resamples, 0.5 / resamples), 1 - 0.5 / resamples))
    deviations = differences - mean
    acceleration = (deviations**3).sum() / (6 * (deviations**2).sum() ** 1.5)
    tail = (1 - confidence) / 2
    levels = []
    for z in (_NORMAL.inv_cdf(tail), _NORMAL.inv_cdf(1 - tail)):
        levels.append(_NORMAL.cdf(bias + (bias + z) / (1 - acceleration * (bias + z))))
    low, high = np.quantile(means, levels)
    return float(low), float(high)


def randomisation_p(
    differences: Floats, *, resamples: int = RESAMPLES, seed: int = SEED
) -> float | None:
    """The two-sided p-value of "the two systems are interchangeable" for the mean difference.

    The sign of each difference is flipped at random (Fisher; Smucker et al., CIKM 2007): all ways
    are counted where there are at most `resamples`, else the observed one counts among the drawn.
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

    def draw(rng: np.random.Generator, rows: int) -> Floats:
        bits = np.unpackbits(rng.integers(0, 256, (rows, -(-n // 8)), dtype=np.uint8), axis=1)
        sums: Floats = total - 2 * (bits[:, :n].astype(np.float64) @ moving)
        return sums

    extreme = sum(int((np.abs(s) >= limit).sum()) for s in _batches(draw, n, resamples, seed))
    return (extreme + 1) / (resamples + 1)


def _batches(
    draw: Callable[[np.random.Generator, int], Floats], n: int, resamples: int, seed: int
) -> Iterator[Floats]:
    """`resamples` draws in batches whose memory is bounded."""
    rng = np.random.default_rng(seed)
    rows = max(1, _CELLS // n)
    for start in range(0, resamples, rows):
        yield draw(rng, min(rows, resamples - start))


def detectable_difference(
    differences: Floats, *, alpha: float = 1 - CONFIDENCE, power: float = POWER
) -> float | None:
    """The smallest true difference that a two-sided test would find with probability `power`.

    (z(1 - alpha/2) + z(power)) * sd / sqrt(n): the normal approximation of the paired t-test's
    power (Cohen 1988; for topic sets, Sakai 2016). None where the differences do not vary.
    """
    if len(differences) < 2 or np.ptp(differences) < _TIE:
        return None
    z = _NORMAL.inv_cdf(1 - alpha / 2) + _NORMAL.inv_cdf(power)
    return float(z * differences.std(ddof=1) / math.sqrt(len(differences)))


def corrected(p_values: Sequence[float], method: Correction = "holm") -> list[float]:
    """The adjusted p-values, in the given order.

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
