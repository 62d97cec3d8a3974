"""How far two gradings agree beyond chance: Cohen's kappa and Krippendorff's alpha.

The same figures serve labels against judgments, two label sets, two rerankers cut by the same rule,
and several raters. Intervals come from resampling queries, because pairs of a query are alike.

Alpha: K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011). Kappa: J. Cohen (1960),
and with weights (1968).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from reranking.arrow import frame
from reranking.errors import InputError
from reranking.judgments.consensus import human, lower_median

Floats = NDArray[np.float64]
Level = Literal["nominal", "ordinal", "interval"]
Weights = Literal["none", "linear", "quadratic"]

RESAMPLES = 1000
SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% bootstrap interval over queries; None where chance explains all."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Agreement:
    """Two gradings of the same pairs; `confusion` has left, right and count."""

    pairs: int
    queries: int
    same: float
    kappa: Estimate
    kappa_linear: Estimate
    kappa_quadratic: Estimate
    alpha_nominal: Estimate
    alpha_ordinal: Estimate
    confusion: pa.Table


@dataclass(frozen=True)
class OneRater:
    """A rater beside the others: ordinal alphas on the pairs that this rater and others graded.

    `against` compares the rater with the others' lower median, `others` the others among
    themselves (None if they are fewer than two). `apart` if the first interval ends below the
    second one's start: the rater disagrees with everybody, and the others agree.
    """

    rater: str
    pairs: int
    against: Estimate
    others: Estimate
    apart: bool


@dataclass(frozen=True)
class RaterAgreement:
    """Krippendorff's alpha over all raters; `pairs` counts those with at least two ratings."""

    raters: tuple[str, ...]
    pairs: int
    nominal: Estimate
    ordinal: Estimate
    interval: Estimate
    each: tuple[OneRater, ...]


def kappa(confusion: Floats, weights: Weights = "none") -> Floats:
    """Return Cohen's kappa of square tables of counts (... x v x v), one figure a table.

    NaN where both gave one grade only. Weights count a disagreement by the distance of the grades'
    places (or its square).
    """
    place = np.arange(confusion.shape[-1])
    distance = np.abs(place[:, None] - place).astype(float)
    cost = {"none": (distance > 0).astype(float), "linear": distance, "quadratic": distance**2}
    total = confusion.sum((-2, -1))
    chance = _outer(confusion.sum(-1), confusion.sum(-2)) * cost[weights]
    return 1 - _ratio((cost[weights] * confusion).sum((-2, -1)) * total, chance.sum((-2, -1)))


def krippendorff_alpha(ratings: NDArray[Any], level: Level = "nominal") -> float:
    """Alpha of a raters x units table of numbers, NaN where a rater did not rate the unit.

    NaN where nothing varies, or no unit has two ratings.
    """
    ratings = np.asarray(ratings, float)
    values = np.unique(ratings[~np.isnan(ratings)])
    counts = (ratings[:, :, None] == values).sum(0).astype(float)
    return float(_alpha(_coincidences(counts).sum(0), values, level))


def _coincidences(counts: Floats) -> Floats:
    """Per unit, how often two raters' values meet (units x values x values); counts is u x v."""
    ratings = counts.sum(1)
    weight = np.where(ratings > 1, 1 / np.maximum(ratings - 1, 1), 0.0)
    pairs = counts[:, :, None] * counts[:, None, :]
    size = counts.shape[1]
    pairs[:, range(size), range(size)] -= counts
    result: Floats = pairs * weight[:, None, None]
    return result


def _alpha(coincidences: Floats, values: Floats, level: Level) -> Floats:
    """Alpha of tables of coincidences (... x v x v), one figure a table."""
    marginal = coincidences.sum(-1)
    total = marginal.sum(-1)
    distance = _distance(marginal, values, level)
    expected = (_outer(marginal, marginal) * distance).sum((-2, -1))
    observed = (coincidences * distance).sum((-2, -1))
    return np.where(total > 1, 1 - _ratio(observed * (total - 1), expected), np.nan)


def _outer(left: Floats, right: Floats) -> Floats:
    product: Floats = left[..., :, None] * right[..., None, :]
    return product


def _ratio(over: Floats, under: Floats) -> Floats:
    """The quotient, NaN where nothing is below the line."""
    return over / np.where(under == 0, np.nan, under)


def _distance(marginal: Floats, values: Floats, level: Level) -> Floats:
    """The squared differences of every two values at a level of measurement."""
    if level == "nominal":
        return 1 - np.eye(len(values))
    if level == "ordinal":
        # as many ranks apart as there are ratings between the two, with half of their own
        values = np.cumsum(marginal, -1) - marginal / 2
    squared: Floats = (values[..., :, None] - values[..., None, :]) ** 2
    return squared


def agreement(left: pa.Table, right: pa.Table) -> Agreement:
    """How far two gradings agree on the pairs that both graded.

    Both have query_id, doc_id and relevance, one row per pair: see `judged.consensus`,
    `judged.labels_as_grades` and `judged.binarised`. InputError where no pair has both.
    """
    both = _both(left, right)
    values = np.unique(both.select("left", "right").to_numpy())
    rows = np.searchsorted(values, both["left"].to_numpy())
    columns = np.searchsorted(values, both["right"].to_numpy())
    per_query = _per_query(both, rows, columns, len(values))
    grades = values.astype(float)

    def of(statistic: Callable[[Floats], Floats]) -> Estimate:
        return _bootstrap(per_query, statistic)

    return Agreement(
        pairs=both.height,
        queries=len(per_query),
        same=float((rows == columns).mean()),
        kappa=of(kappa),
        kappa_linear=of(lambda table: kappa(table, "linear")),
        kappa_quadratic=of(lambda table: kappa(table, "quadratic")),
        alpha_nominal=of(lambda table: _alpha(table + table.swapaxes(-2, -1), grades, "nominal")),
        alpha_ordinal=of(lambda table: _alpha(table + table.swapaxes(-2, -1), grades, "ordinal")),
        confusion=both.group_by("left", "right").len("count").sort("left", "right").to_arrow(),
    )


def rater_agreement(judgments: pa.Table) -> RaterAgreement:
    """Return how far the raters (`source`) agree; each may have rated any part of the pairs."""
    rows = human(frame(judgments, ("query_id", "doc_id", "relevance", "source"), "judgments"))
    rows = rows.with_columns(pl.col("relevance").cast(pl.Int32))
    raters = tuple(sorted(rows["source"].unique().to_list()))
    pairs, (nominal, ordinal, interval) = _alphas(rows, "nominal", "ordinal", "interval")
    each = tuple(_beside(rows, rater) for rater in raters) if len(raters) > 1 else ()
    return RaterAgreement(raters, pairs, nominal, ordinal, interval, each)


def _beside(rows: pl.DataFrame, rater: str) -> OneRater:
    """The rater's figures beside those of the others."""
    keys = ["query_id", "doc_id"]
    own = rows.filter(pl.col("source") == rater)
    others = rows.filter(pl.col("source") != rater).join(own, on=keys, how="semi")
    median = others.group_by(keys).agg(lower_median(), pl.lit("others").alias("source"))
    columns = [*keys, "relevance", "source"]
    both = pl.concat([own.select(columns), median.select(columns)])
    pairs, (against,) = _alphas(both, "ordinal")
    _, (among,) = _alphas(others.select(columns), "ordinal")
    apart = against.high is not None and among.low is not None and against.high < among.low
    return OneRater(rater, pairs, against, among, apart)


def _alphas(rows: pl.DataFrame, *levels: Level) -> tuple[int, list[Estimate]]:
    """The pairs with several grades, and alpha at each level of measurement."""
    units = rows.group_by("query_id", "doc_id").agg("relevance").sort("query_id", "doc_id")
    values = np.unique(rows["relevance"].to_numpy())
    counts = np.array(
        [[grades.count(value) for value in values] for grades in units["relevance"].to_list()],
        float,
    ).reshape(units.height, len(values))
    query = units["query_id"].rank("dense").to_numpy().astype(int) - 1
    per_query = np.zeros((units["query_id"].n_unique(), len(values), len(values)))
    np.add.at(per_query, query, _coincidences(counts))
    return int((counts.sum(1) > 1).sum()), [
        _bootstrap(per_query, partial(_alpha, values=values, level=level)) for level in levels
    ]


def disagreements(left: pa.Table, right: pa.Table, limit: int = 50) -> pa.Table:
    """The pairs that tell most: the grades lie furthest apart, and then the surest ones.

    Columns: query_id, doc_id, left, right, gap and, where the left side carries probability, sure
    (its distance from 0.5): a confident label against a human grade is an error of one of them,
    an unconfident one is only a close call.
    """
    both = _both(left, right).with_columns(
        (pl.col("left") - pl.col("right")).abs().alias("gap"),
        (pl.col("probability") - 0.5).abs().alias("sure"),
    )
    order = ["gap", "sure", "query_id", "doc_id"]
    rows = both.filter(pl.col("gap") > 0).sort(
        order, descending=[True, True, False, False], nulls_last=True
    )
    return rows.head(limit).select("query_id", "doc_id", "left", "right", "gap", "sure").to_arrow()


def _both(left: pa.Table, right: pa.Table) -> pl.DataFrame:
    """The pairs graded on both sides: left, right and the left side's probability, if any."""
    needed = ("query_id", "doc_id", "relevance")
    first, second = frame(left, needed, "grades"), frame(right, needed, "grades")
    if "probability" not in first.columns:
        first = first.with_columns(pl.lit(None, pl.Float64).alias("probability"))
    for rows in (first, second):
        if rows.select("query_id", "doc_id").is_duplicated().any():
            raise InputError("a pair has several grades; bring them to one with `consensus`")
    joined = first.select(
        "query_id", "doc_id", pl.col("relevance").alias("left"), "probability"
    ).join(
        second.select("query_id", "doc_id", pl.col("relevance").alias("right")),
        on=["query_id", "doc_id"],
    )
    if not joined.height:
        raise InputError("the two gradings have no pair in common, so there is no agreement")
    return joined.sort("query_id", "doc_id")


def _per_query(both: pl.DataFrame, rows: NDArray[Any], columns: NDArray[Any], size: int) -> Floats:
    """Each query's own confusion table."""
    query = both["query_id"].rank("dense").to_numpy().astype(int) - 1
    tables = np.zeros((query.max() + 1, size, size))
    np.add.at(tables, (query, rows, columns), 1)
    return tables


def _bootstrap(per_query: Floats, statistic: Callable[[Floats], Floats]) -> Estimate:
    """The statistic of the summed tables, and its 2.5% and 97.5% points over resampled queries."""
    queries = len(per_query)
    if not queries:
        return Estimate(None, None, None)
    value = float(statistic(per_query.sum(0)))
    random = np.random.default_rng(SEED)
    flat = per_query.reshape(queries, -1)
    sums = np.empty((RESAMPLES, flat.shape[1]))
    for sample in sums:
        picked = np.bincount(random.integers(queries, size=queries), minlength=queries)
        sample[:] = picked @ flat
    draws = statistic(sums.reshape(RESAMPLES, *per_query.shape[1:]))
    draws = draws[~np.isnan(draws)]
    if np.isnan(value) or not len(draws):
        return Estimate(None, None, None)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(value, float(low), float(high))
