"""Intervals for proportions whose observations come in clusters (judged pairs in queries).

Korn and Graubard (Survey Methodology 24, 1998): the exact Clopper-Pearson interval, with the
number of observations replaced by the effective one. Pairs of one query resemble each other, and an
interval that counts them as independent promises more than the judgments can show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Proportion:
    """`hits` of `total` with the interval `low`..`high`; `effective` observations stand behind it.

    Without observations the value is None and the interval is 0..1.
    """

    hits: int
    total: int
    low: float
    high: float
    effective: float

    @property
    def value(self) -> float | None:
        return self.hits / self.total if self.total else None

    def __str__(self) -> str:
        if not self.total:
            return "unknown (0 judged)"
        share = self.hits / self.total
        return f"{share:.3f} [{self.low:.3f}, {self.high:.3f}] ({self.hits} of {self.total})"


def clopper_pearson(
    hits: NDArray[Any], total: NDArray[Any], confidence: float = CONFIDENCE
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The exact interval's lower and upper ends; `total` may be fractional (effective)."""
    from scipy.stats import beta

    alpha = 1 - confidence
    hits, total = np.asarray(hits, float), np.asarray(total, float)
    with np.errstate(invalid="ignore"):
        low = np.where(hits > 0, beta.ppf(alpha / 2, hits, total - hits + 1), 0.0)
        high = np.where(hits < total, beta.ppf(1 - alpha / 2, hits + 1, total - hits), 1.0)
    return low, high


def proportion(
    hit: NDArray[np.bool_], cluster: NDArray[Any], confidence: float = CONFIDENCE
) -> Proportion:
    """The share of `hit` with its interval; `cluster` names each observation's query."""
    total, hits = len(hit), int(hit.sum())
    if not total:
        return Proportion(0, 0, 0.0, 1.0, 0.0)
    effective = _effective(hit, cluster, confidence)
    low, high = clopper_pearson(np.array(hits / total * effective), np.array(effective), confidence)
    return Proportion(hits, total, float(low), float(high), effective)


def _effective(hit: NDArray[np.bool_], cluster: NDArray[Any], confidence: float) -> float:
    """How many independent observations say as much as these clustered ones."""
    from scipy.stats import t

    total, share = len(hit), float(hit.mean())
    _, index = np.unique(cluster, return_inverse=True)
    residuals = np.bincount(index, weights=hit - share)
    clusters = len(residuals)
    if clusters == 1:
        return 1.0
    effective = float(total)
    if 0 < share < 1:
        variance = clusters / (clusters - 1) * float((residuals**2).sum()) / total**2
        independent = share * (1 - share) / (total - 1)
        effective = min(effective, total * independent / max(variance, 1e-300))
    quantile = (1 + confidence) / 2
    few = float(t.ppf(quantile, total - 1) / t.ppf(quantile, clusters - 1))
    return max(1.0, effective * min(1.0, few**2))
