"""From a reranker's raw logit to the probability that a person would call the pair relevant.

Two maps are fitted on the judged pairs: Platt's logistic map with his smoothed targets (Platt,
Probabilistic Outputs for Support Vector Machines, 1999) and isotonic regression, kept inside the
range of those targets so that no pair is ever called impossible. The one with the lower
cross-validated log loss is kept. Every split goes by query, never by pair, and the quality figures
come from judgments that neither the map nor the choice between the two maps has seen.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from reranking.errors import InputError
from reranking.fingerprints import canonical, fingerprint
from reranking.judgments.consensus import RELEVANT
from reranking.labelling.intervals import proportion
from reranking.labelling.judged import judged, pair_frame

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Method = Literal["platt", "isotonic"]

FOLDS = 5
BINS = 10
MIN_QUERIES = 10
MIN_OF_EACH = 20
"""Judged pairs of either kind below which five folds hold too few to fit or to check a map."""
FORMAT = 1


@dataclass(frozen=True)
class Platt:
    """probability = 1 / (1 + exp(-(slope * score + intercept)))"""

    slope: float
    intercept: float

    def __call__(self, scores: Floats) -> Floats:
        # tanh instead of exp: it does not overflow
        return 0.5 * (1 + np.tanh(0.5 * (self.slope * scores + self.intercept)))


@dataclass(frozen=True)
class Isotonic:
    """probability = linear interpolation between the knots, flat outside them."""

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __call__(self, scores: Floats) -> Floats:
        return np.interp(scores, self.scores, self.probabilities)


@dataclass(frozen=True)
class Bin:
    """One bar of the reliability plot: `low` and `high` are the interval of `observed`."""

    predicted: float
    observed: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Reliability:
    """Cross-fitted quality; `base_brier` is what the bare share of relevant pairs would score."""

    brier: float
    base_brier: float
    ece: float
    log_loss: float
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Uncalibrated:
    """Why there is no calibration, and how many judged pairs there were."""

    reason: str
    judged: int
    positives: int
    queries: int


@dataclass(frozen=True)
class Calibration:
    """A map from one reranker's logits to probabilities, with the evidence for it.

    `relevant` is the lowest grade that counts as relevant; `log_losses` are the cross-validated
    ones that decided between the maps.
    """

    reranker: str
    relevant: int
    map: Platt | Isotonic
    judged: int
    positives: int
    queries: int
    log_losses: dict[str, float]
    reliability: Reliability

    @property
    def method(self) -> Method:
        return "platt" if isinstance(self.map, Platt) else "isotonic"

    @property
    def fingerprint(self) -> str:
        """32 hex digits that name what decides the probabilities: the map, reranker and cut."""
        return fingerprint([self.reranker, self.relevant, self.method, asdict(self.map)])

    def apply(self, scores: NDArray[Any], reranker: str) -> Floats:
        """Each raw score's probability; InputError where another reranker made the scores."""
        if reranker != self.reranker:
            raise InputError(
                f"this calibration belongs to reranker {self.reranker}, the scores come from "
                f"{reranker}; fit a calibration on that reranker's own scores"
            )
        return self.map(np.asarray(scores, np.float64))

    def to_json(self) -> str:
        """The whole calibration as JSON; `from_json` reads it back."""
        fields = asdict(self)
        return canonical({**fields, "method": self.method, "format": FORMAT})

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """The calibration that `to_json` wrote; InputError for anything else."""
        try:
            fields = json.loads(text)
            if fields.pop("format") != FORMAT:
                raise ValueError(f"its format is not {FORMAT}")
            kind = fields.pop("method")
            fields["map"] = _map_from(kind, fields["map"])
            quality = fields["reliability"]
            bins = tuple(Bin(**one) for one in quality.pop("bins"))
            return cls(**{**fields, "reliability": Reliability(**quality, bins=bins)})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"this is not a stored calibration: {error}") from error


def _map_from(method: str, fields: dict[str, Any]) -> Platt | Isotonic:
    if method == "platt":
        return Platt(**fields)
    if method == "isotonic":
        return Isotonic(tuple(fields["scores"]), tuple(fields["probabilities"]))
    raise ValueError(f"unknown method {method!r}")


def fit(
    pairs: pa.Table, judgments: pa.Table, reranker: str, *, relevant: int = RELEVANT
) -> Calibration | Uncalibrated:
    """The calibration of `reranker` from its judged pairs, or why there is none.

    A pair is positive if its consensus grade is at least `relevant`. The probabilities hold for
    pairs like the judged ones: where only top documents were judged, deep ones are extrapolated.
    """
    rows = judged(pair_frame(pairs), judgments)
    scores = rows["score"].cast(float).to_numpy()
    positive = (rows["relevance"] >= relevant).to_numpy()
    # by text, not id: the same query under two ids must not stand on both sides of a split
    query = rows["query_hash"].rank("dense").to_numpy()
    counts = len(scores), int(positive.sum()), len(np.unique(query))
    try:
        _check_enough(*counts)
        chosen, losses = _choose(scores, positive, query)
        if isinstance(chosen, Platt) and chosen.slope <= 0:
            raise _LackingError(
                f"higher scores do not go with more relevance: slope {chosen.slope:.3g}"
            )
        quality = reliability(_cross_fitted(scores, positive, query), positive, query)
    except _LackingError as lacking:
        log.warning("no calibration: %s", lacking)
        return Uncalibrated(str(lacking), *counts)
    return Calibration(reranker, relevant, chosen, *counts, losses, quality)


class _LackingError(Exception):
    """What the judgments lack for a calibration."""


def _check_enough(judged_pairs: int, positives: int, queries: int) -> None:
    negatives = judged_pairs - positives
    if judged_pairs and not negatives:
        raise _LackingError(
            f"all {judged_pairs} judged pairs are relevant; none shows what a miss scores"
        )
    if min(positives, negatives) < MIN_OF_EACH or queries < MIN_QUERIES:
        raise _LackingError(
            f"{positives} relevant and {negatives} non-relevant judged pairs in {queries} queries; "
            f"at least {MIN_OF_EACH} of each in {MIN_QUERIES} queries are needed"
        )


def with_probability(
    pairs: pa.Table,
    calibration: Calibration,
    reranker: str,
    *,
    score: str = "score",
    probability: str = "probability",
) -> pa.Table:
    """The pairs with the column `probability`, computed from the column `score`.

    Use `other_score` and `other_probability` for a second reranker.
    """
    values = calibration.apply(pairs.column(score).to_numpy(), reranker)
    if probability in pairs.column_names:
        pairs = pairs.drop_columns([probability])
    return pairs.append_column(probability, pa.array(values, pa.float64()))


def _targets(positive: NDArray[np.bool_]) -> tuple[float, float]:
    """Platt's targets for non-relevant and relevant pairs: 0 and 1 pulled in by one observation."""
    positives = int(positive.sum())
    if positives in (0, len(positive)):
        raise _LackingError("the relevant or the non-relevant judgments come from too few queries")
    return 1 / (len(positive) - positives + 2), (positives + 1) / (positives + 2)


def _fit_platt(scores: Floats, positive: NDArray[np.bool_]) -> Platt:
    from sklearn.linear_model import LogisticRegression

    low, high = _targets(positive)
    target = np.where(positive, high, low)
    middle, spread = float(scores.mean()), float(scores.std())
    if not spread:
        return Platt(0.0, float(np.log(target.mean() / (1 - target.mean()))))
    # A soft target is a pair seen both ways, weighted: separable judgments keep a finite slope.
    rows = (np.concatenate([scores, scores])[:, None] - middle) / spread
    seen = np.repeat([1, 0], len(scores))
    model = LogisticRegression(C=np.inf, solver="newton-cholesky")
    model.fit(rows, seen, sample_weight=np.concatenate([target, 1 - target]))
    slope = float(model.coef_[0, 0]) / spread
    return Platt(slope, float(model.intercept_[0]) - slope * middle)


def _fit_isotonic(scores: Floats, positive: NDArray[np.bool_]) -> Isotonic:
    from sklearn.isotonic import IsotonicRegression

    low, high = _targets(positive)
    model = IsotonicRegression().fit(scores, positive.astype(float))
    values = np.clip(model.y_thresholds_, low, high)
    return Isotonic(tuple(model.X_thresholds_.tolist()), tuple(values.tolist()))


_Fitter = Callable[[Floats, NDArray[np.bool_]], Platt | Isotonic]
_FITTERS: dict[str, _Fitter] = {"platt": _fit_platt, "isotonic": _fit_isotonic}


def _folds(query: NDArray[Any]) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    from sklearn.model_selection import GroupKFold

    yield from GroupKFold(FOLDS).split(query, groups=query)


def _choose(
    scores: Floats, positive: NDArray[np.bool_], query: NDArray[Any]
) -> tuple[Platt | Isotonic, dict[str, float]]:
    """The map with the lower cross-validated log loss, fitted on everything, and both losses."""
    losses = {}
    for name, fitter in _FITTERS.items():
        predicted = np.empty_like(scores)
        for train, test in _folds(query):
            predicted[test] = fitter(scores[train], positive[train])(scores[test])
        losses[name] = _log_loss(predicted, positive)
    best = min(losses, key=losses.__getitem__)  # on a tie the smoother map, which stands first
    return _FITTERS[best](scores, positive), losses


def _cross_fitted(scores: Floats, positive: NDArray[np.bool_], query: NDArray[Any]) -> Floats:
    """Each judged pair's probability from a map chosen and fitted without its query's fold."""
    predicted = np.empty_like(scores)
    for train, test in _folds(query):
        chosen, _ = _choose(scores[train], positive[train], query[train])
        predicted[test] = chosen(scores[test])
    return predicted


def _log_loss(predicted: Floats, positive: NDArray[np.bool_]) -> float:
    tiny = np.finfo(np.float64).eps
    clipped = np.clip(predicted, tiny, 1 - tiny)
    return float(-np.mean(np.where(positive, np.log(clipped), np.log1p(-clipped))))


def reliability(predicted: Floats, positive: NDArray[np.bool_], query: NDArray[Any]) -> Reliability:
    """Brier score, expected calibration error (ten equal bins of probability) and the bins.

    ECE as in Naeini et al. (AAAI 2015): the bins' |observed - predicted|, weighted by their counts.
    """
    place = np.minimum((predicted * BINS).astype(int), BINS - 1)
    bins, gap = [], 0.0
    for number in np.unique(place):
        inside = place == number
        mean, share = float(predicted[inside].mean()), proportion(positive[inside], query[inside])
        observed = share.hits / share.total
        bins.append(Bin(mean, observed, share.low, share.high, share.total))
        gap += abs(observed - mean) * share.total / len(predicted)
    base = float(positive.mean())
    return Reliability(
        brier=float(np.mean((predicted - positive) ** 2)),
        base_brier=base * (1 - base),
        ece=gap,
        log_loss=_log_loss(predicted, positive),
        bins=tuple(bins),
    )
