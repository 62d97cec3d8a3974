"""A threshold from a goal: the cut that keeps labels at least so precise, or that there is none.

The queries are split in two by a hash of their text. One part picks the cut, the other reports what
the cut achieves, so that the figures are not those that the cut was chosen by. The cut is a raw
score: a calibration fitted on all judgments would carry the second part into the first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from reranking.errors import ConfigError
from reranking.fingerprints import digest
from reranking.labelling.intervals import Proportion, clopper_pearson, proportion
from reranking.labelling.judged import RELEVANT, judged, pair_frame
from reranking.labelling.rules import Rule

CHOOSING_CONFIDENCE = 0.998
"""How sure the choosing part must be. A cut that just reaches the goal there would miss it in the
other part every second time; with this head room (z = 3.1 = 1.96 + 0.84 * sqrt 2) it is confirmed
in about four of five cases with equal parts."""


@dataclass(frozen=True)
class Goal:
    """The cut for a target precision, measured on queries that had no say in it.

    `reached` only if the whole interval of `precision` lies at or above the target; `cut` is the
    raw score, None where no judged pair of the choosing part is relevant.
    """

    target_precision: float
    cut: float | None
    reached: bool
    precision: Proportion
    recall: Proportion
    judgments: int
    statement: str

    def rule(self, name: str) -> Rule:
        """The rule that labels with this cut; ConfigError if the goal was not reached."""
        if not self.reached or self.cut is None:
            raise ConfigError(f"rule {name!r}: {self.statement}")
        return Rule(name, on="score", at_least=self.cut)


def cut_for_precision(
    pairs: pa.Table, judgments: pa.Table, target_precision: float, *, relevant: int = RELEVANT
) -> Goal:
    """The lowest cut whose precision reaches the target, with precision and recall on the rest."""
    if not 0 < target_precision < 1:
        raise ConfigError(f"target_precision is {target_precision}; it lies between 0 and 1")
    rows = judged(pair_frame(pairs), judgments).with_columns(
        (pl.col("relevance") >= relevant).alias("true"),
        pl.col("query_hash").map_elements(_chooses, return_dtype=pl.Boolean).alias("chooses"),
    )
    cut = _choose(rows.filter("chooses"), target_precision)
    rest = rows.filter(~pl.col("chooses"))
    true, query = rest["true"].to_numpy(), rest["query_id"].to_numpy()
    said = np.zeros(len(true), bool) if cut is None else (rest["score"] >= cut).to_numpy()
    precision, recall = proportion(true[said], query[said]), proportion(said[true], query[true])
    reached = cut is not None and precision.total > 0 and precision.low >= target_precision
    statement = _statement(target_precision, cut, precision, recall, rows.height, reached)
    return Goal(target_precision, cut, reached, precision, recall, rows.height, statement)


def _chooses(query_hash: bytes) -> bool:
    """Whether a query helps to choose the cut; the same for a text in every run."""
    return digest(b"goal" + query_hash)[0] % 2 == 0


def _choose(rows: pl.DataFrame, target: float) -> float | None:
    """The lowest score from which on precision surely reaches the target.

    Where no score does, the one with the highest lower bound: the rest will tell.
    """
    per_score = (
        rows.group_by("score")
        .agg(pl.len().alias("total"), pl.col("true").sum().alias("hits"))
        .sort("score", descending=True)
    )
    hits, total = per_score["hits"].cum_sum().to_numpy(), per_score["total"].cum_sum().to_numpy()
    if not len(hits) or not hits[-1]:
        return None
    low, _ = clopper_pearson(hits, total, CHOOSING_CONFIDENCE)
    sure = np.flatnonzero(low >= target)
    index = int(sure[-1]) if len(sure) else int(np.argmax(low))
    return float(per_score["score"][index])


def _statement(
    target: float,
    cut: float | None,
    precision: Proportion,
    recall: Proportion,
    judgments: int,
    reached: bool,
) -> str:
    if reached:
        return f"from score {cut:.4g} on: precision {precision}, recall {recall}"
    start = f"precision {target:g} is not demonstrable with {judgments} judgments: "
    if cut is None:
        return start + "the queries that choose the cut have no relevant judgment"
    return start + f"from score {cut:.4g} on the other queries show {precision}"
