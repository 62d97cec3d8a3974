"""All candidates of a run's judged queries as arrays, with what any setting ranks them by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from configs.blending import Blend
from configs.part import LEGS
from reranking.arrow import frame
from reranking.evaluation.array_measures import NOTHING, UNJUDGED, Grades
from reranking.evaluation.measures import without_identical, without_judgments
from reranking.runs.candidates import each_chunk
from reranking.runs.fusion import Floats, Legs, scaled
from reranking.runs.pairs import KEY, PairScores
from reranking.runs.ranking import Places, legs_of
from reranking.runs.refine import with_exact
from reranking.runs.run import Run

_EXACT_FIRST = 1e6  # added to scores of exact logits where a run refines: they rank above others


@dataclass(frozen=True)
class Pool:
    """The candidates of the judged queries: arrays of (queries, documents), documents by id.

    `grades` are UNJUDGED where nobody graded the document; `judged` has the grades of each query,
    best first. `lift` is added to reranked scores where a run refines: what it has in float32 ranks
    above all else. `cost` has the least vector and FTS rank of each distinct pair of the whole run.
    """

    query_ids: list[str]
    doc_ids: npt.NDArray[np.object_]
    legs: Legs
    logits: Floats | None
    grades: Grades
    judged: Grades
    cost: Floats
    lift: Floats | None = None
    _kept: dict[tuple[str, int, str], Any] = field(default_factory=dict, repr=False, compare=False)

    def view(self, query_type: str, depth: int) -> Legs:
        """Return the legs of a query type down to a rank, kept for the next call."""
        key = (query_type, depth, "legs")
        if key not in self._kept:
            self._kept[key] = self.legs.only(LEGS[query_type], depth)
        legs: Legs = self._kept[key]
        return legs

    def terms(self, query_type: str, depth: int, blend: Blend) -> tuple[Floats, Floats]:
        """Return the legs' terms on the blend's scale, kept for the next call."""
        key = (query_type, depth, blend.scale)
        if key not in self._kept:
            self._kept[key] = scaled(self.view(query_type, depth), blend)
        terms: tuple[Floats, Floats] = self._kept[key]
        return terms

    def pairs(self, query_type: str, depth: int) -> int:
        """Return how many distinct pairs the legs of a query type give, down to a rank."""
        columns = [("vector", "fts").index(leg) for leg in LEGS[query_type]]
        return int((self.cost[:, columns] <= depth).any(axis=1).sum())

    def some(self, rows: npt.NDArray[np.int64]) -> Pool:
        """Return the pool of some of the queries; the cost stays that of all."""
        legs = Legs(*(getattr(self.legs, n)[rows] for n in Legs.__dataclass_fields__))
        return Pool(
            [self.query_ids[i] for i in rows],
            self.doc_ids[rows],
            legs,
            None if self.logits is None else self.logits[rows],
            self.grades[rows],
            self.judged[rows],
            self.cost,
            None if self.lift is None else self.lift[rows],
        )


def pool_of(
    run: Run, judgments: pa.Table, *, ignore_identical_ids: bool = False, reranked: bool = True
) -> Pool:
    """Read the run's candidates and stored scores; `judgments`: query_id, doc_id, relevance.

    Logits are left out without `reranked`.
    """
    rows = _scored(run, reranked)
    cost = _least_ranks(rows)
    if ignore_identical_ids:
        rows = rows.filter(pl.col("query_id") != pl.col("doc_id"))
        judgments = without_identical(judgments)
    asked = run.query_rows.column("query_id").to_pylist()
    absent = set(without_judgments(judgments, asked))
    return make_pool(rows, frame(judgments), [q for q in asked if q not in absent], cost)


def make_pool(
    rows: pl.DataFrame, judgments: pl.DataFrame, query_ids: Sequence[str], cost: Floats
) -> Pool:
    """Return the pool of candidates with ranks and scores and, if reranked, `logit`. Pure.

    `exact` is whether a run that refines has the logit in float32.
    """
    order = pl.DataFrame({"query_id": list(query_ids)}, schema={"query_id": pl.String})
    order = order.with_row_index("row")
    grades = judgments.select("query_id", "doc_id", pl.col("relevance").cast(pl.Int64))
    candidates = (
        rows.join(order, on="query_id")
        .join(grades, on=["query_id", "doc_id"], how="left")
        .sort("row", "doc_id")
    )
    place = _placed(candidates["row"].to_numpy().astype(np.int64), len(order))
    graded = np.full(place.shape, NOTHING, np.int64)
    known = candidates["relevance"].clip(lower_bound=0).fill_null(UNJUDGED).to_numpy()
    graded[place.rows, place.columns] = known
    ids = np.full(place.shape, "", object)
    ids[place.rows, place.columns] = candidates["doc_id"].to_numpy()
    return Pool(
        query_ids=list(query_ids),
        doc_ids=ids,
        legs=legs_of(candidates, place),
        logits=place.spread(candidates["logit"]) if "logit" in candidates.columns else None,
        grades=graded,
        judged=_judged(grades.join(order, on="query_id"), len(order)),
        cost=cost,
        lift=_EXACT_FIRST * place.spread(candidates["exact"])
        if "exact" in candidates.columns
        else None,
    )


def _placed(rows: npt.NDArray[np.int64], queries: int) -> Places:
    """Places of sorted rows, with queries that have none among them."""
    columns = np.arange(len(rows)) - np.searchsorted(rows, rows)
    return Places(rows, columns, (queries, int(columns.max(initial=0)) + 1))


def _judged(grades: pl.DataFrame, queries: int) -> Grades:
    ordered = grades.sort("row", "relevance", descending=[False, True])
    place = _placed(ordered["row"].to_numpy().astype(np.int64), queries)
    judged = np.zeros(place.shape, np.int64)
    judged[place.rows, place.columns] = np.maximum(ordered["relevance"].to_numpy(), 0)
    return judged


def _scored(run: Run, reranked: bool) -> pl.DataFrame:
    """The candidates of all chunks, with the logit that ranks if it is wanted and there is one."""
    wanted = ["query_id", "doc_id", *KEY, "vector_rank", "_distance", "fts_rank", "_score"]
    rows = pl.concat([frame(rows.select(wanted)) for _, rows in each_chunk(run)])
    if run.reranker is None or not reranked:
        return rows
    hashes = run.query_rows.column("text_hash").to_pylist()
    known = _store(run, run.reranker, hashes).known.select(*KEY, "score")
    logits = [pl.col("score").cast(pl.Float64).alias("logit")]
    if run.refiner is not None:
        known = with_exact(known, _store(run, run.refiner, hashes))
        logits = [
            pl.coalesce("exact", "score").cast(pl.Float64).alias("logit"),
            pl.col("exact").is_not_null().cast(pl.Float64),
        ]
    scores = known.select(*KEY, *logits)
    return rows.join(scores, on=KEY, how="left", maintain_order="left")


def _store(run: Run, reranker: str, hashes: list[bytes]) -> PairScores:
    return PairScores(run.database, bytes.fromhex(reranker), hashes, run.least_epoch)


def _least_ranks(rows: pl.DataFrame) -> Floats:
    """(vector, FTS) rank of each distinct pair, the least of them; infinite without one."""
    legs = pl.col("vector_rank", "fts_rank")
    least = rows.group_by(KEY).agg(legs.min()).select(legs.cast(pl.Float64).fill_null(np.inf))
    return least.to_numpy()
