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

from configs.labelling import BY_GOAL, LabelRule
from reranking.errors import ConfigError
from reranking.fingerprints import digest
from reranking.judgments.consensus import RELEVANT
from reranking.labelling.intervals import Proportion, proportion
from reranking.labelling.judged import judged, no_sample, pair_frame

CHOOSING_CONFIDENCE = 0.998
"""How sure the choosing part must be. A cut that just reaches the goal there would miss it in the
other part every second time; with this head room (z = 3.1 = 1.96 + 0.84 * sqrt 2) it is confirmed
in about four of five cases with equal parts."""

CUTS = 200
"""How many cuts are tried, spread evenly over the judged pairs."""


@dataclass(frozen=True)
class Goal:
    """The cut for a target precision, measured on queries that had no say in it.

    `reached` only if the whole interval of `precision` lies at or above the target; `cut` is the
    raw score, None where no judged pair of the choosing part is relevant, or where all pairs are.
    """

    target_precision: float
    cut: float | None
    reached: bool
    precision: Proportion
    recall: Proportion
    judgments: int
    statement: str

    @property
    def rule(self) -> LabelRule:
        """The rule that labels with this cut; ConfigError if the goal was not reached."""
        if not self.reached or self.cut is None:
            raise ConfigError(f"rule {BY_GOAL!r}: {self.statement}")
        return LabelRule(name=BY_GOAL, on="score", at_least=self.cut)


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
    # one order of rows, so that sums do not differ in their last digit from call to call
    rows = rows.sort("score", "query_id", "doc_id", descending=[True, False, False])
    one_sided = bool(rows.height and rows["true"].all())
    cut = None if one_sided else _choose(rows.filter("chooses"), target_precision)
    rest = rows.filter(~pl.col("chooses"))
    true, query = rest["true"].to_numpy(), rest["query_id"].to_numpy()
    said = np.zeros(len(true), bool) if cut is None else (rest["score"] >= cut).to_numpy()
    precision, recall = proportion(true[said], query[said]), proportion(said[true], query[true])
    reached = cut is not None and precision.total > 0 and precision.low >= target_precision
    lacking = None
    if cut is not None:
        scores = pair_frame(pairs)["score"]
        lacking = no_sample(
            scores.filter(scores >= cut), rows.filter(pl.col("score") >= cut)["score"]
        )
        reached = reached and lacking is None
    statement = _statement(target_precision, cut, precision, recall, rows.height, reached)
    if lacking is not None:
        statement = (
            f"precision {target_precision:g} is not demonstrable with {rows.height} judgments: "
            f"{lacking}"
        )
    if one_sided:  # precision would be 1 wherever the cut lies
        statement = (
            f"precision {target_precision:g} is not demonstrable with {rows.height} judgments: all "
            "of them are relevant, so none could show a wrong label"
        )
    return Goal(target_precision, cut, reached, precision, recall, rows.height, statement)


def _chooses(query_hash: bytes) -> bool:
    """Whether a query helps to choose the cut; the same for a text in every run."""
    return digest(b"goal" + query_hash)[0] % 2 == 0


def _choose(rows: pl.DataFrame, target: float) -> float | None:
    """The lowest score from which on precision surely reaches the target; rows by score, falling.

    Where no score does, the one with the highest lower bound: the rest will tell.
    """
    scores, true = rows["score"].to_numpy(), rows["true"].to_numpy()
    query = rows["query_id"].rank("dense").to_numpy()
    if not true.any():
        return None
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1) + 1  # never between equals
    if len(ends) > CUTS:
        ends = ends[np.linspace(0, len(ends) - 1, CUTS).astype(int)]
    low = [proportion(true[:end], query[:end], CHOOSING_CONFIDENCE).low for end in ends]
    sure = np.flatnonzero(np.array(low) >= target)
    index = sure[-1] if len(sure) else np.argmax(low)
    return float(scores[ends[index] - 1])


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
