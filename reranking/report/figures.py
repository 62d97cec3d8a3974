"""Figures of a report that are derived from values at hand: histograms, slices, most changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from configs.part import LEGS
from reranking.arrow import frame
from reranking.evaluation.overlap import rbo
from reranking.evaluation.statistics import compare_paired
from reranking.evaluation.summaries import query_slices
from reranking.report.content import Distribution, Group, SliceRow

BINS: Final = 40
GROUPS: Final = ("judged relevant", "judged not relevant", "unjudged")
RELEVANT: Final = 1  # the lowest relevant grade, as ir-measures' rel=1
MAX_SLICES: Final = 40
MIN_SLICE: Final = 2
_RESAMPLES: Final = 1999  # a slice's interval is a hint, not a finding


def distributions(
    pairs: pl.DataFrame, query_types: Sequence[str], *, judged: bool
) -> tuple[Distribution, ...]:
    """Return the histograms of the logits of each query type, by what people said of the pairs.

    `pairs` has score, vector_rank, fts_rank and relevance (null: unjudged). All share their edges.
    """
    if pairs.is_empty():
        return ()
    edges = np.histogram_bin_edges(pairs["score"].cast(pl.Float64).to_numpy(), BINS)
    grade = pl.col("relevance")
    kinds = dict(zip(GROUPS, (grade >= RELEVANT, grade < RELEVANT, grade.is_null()), strict=True))
    if not judged:
        kinds = {"all pairs": pl.lit(True)}
    drawn = []
    for query_type in query_types:
        legs = [pl.col(f"{leg}_rank").is_not_null() for leg in LEGS[query_type]]
        view = pairs.filter(pl.any_horizontal(legs))
        groups = [_group(n, view.filter(k)["score"].to_numpy(), edges) for n, k in kinds.items()]
        drawn.append(Distribution(query_type, tuple(edges.tolist()), tuple(groups)))
    return tuple(drawn)


def _group(name: str, scores: npt.NDArray[np.float32], edges: npt.NDArray[np.float64]) -> Group:
    counts = np.histogram(scores, edges)[0]
    return Group(name, tuple(counts.tolist()), float(np.median(scores)) if len(scores) else None)


def slice_rows(
    values: Mapping[str, tuple[float, float]], queries: pa.Table
) -> tuple[tuple[SliceRow, ...], int]:
    """Return the (base, candidate) values by tag and length, worst first; how many are left.

    A slice of fewer than MIN_SLICE queries is left out, and so is the one of all queries.
    """
    table = pl.DataFrame(
        {
            "query_id": list(values),
            "base": [a for a, _ in values.values()],
            "candidate": [b for _, b in values.values()],
        },
        schema={"query_id": pl.String, "base": pl.Float64, "candidate": pl.Float64},
    )
    joined = query_slices(queries).join(table, on="query_id", how="inner")
    parts = joined.partition_by("kind", "slice", as_dict=True, maintain_order=True)
    big = {k: p for k, p in parts.items() if MIN_SLICE <= p.height < len(values)}
    largest = sorted(big, key=lambda k: (-big[k].height, k))[:MAX_SLICES]
    rows = [_slice(str(kind), str(name), big[kind, name]) for kind, name in largest]
    rows.sort(key=lambda row: (row.paired.difference or 0.0, row.kind, row.name))
    return tuple(rows), len(parts) - len(rows)


def _slice(kind: str, name: str, part: pl.DataFrame) -> SliceRow:
    base, candidate = part["base"].to_numpy(), part["candidate"].to_numpy()
    return SliceRow(kind, name, compare_paired(base, candidate, resamples=_RESAMPLES))


def most_changed(
    base: Mapping[str, Sequence[str]],
    candidate: Mapping[str, Sequence[str]],
    query_ids: Sequence[str],
) -> list[str]:
    """Return the queries whose rankings differ, the least alike (by rank-biased overlap) first."""
    differing = [q for q in query_ids if list(base.get(q, ())) != list(candidate.get(q, ()))]
    alike = {q: rbo(base.get(q, ()), candidate.get(q, ())) for q in differing}
    return sorted(differing, key=lambda q: (alike[q], q))


def with_grades(pairs: pl.DataFrame, grades: pa.Table | None) -> pl.DataFrame:
    """Return `pairs` (query_id, doc_id, ...) with `relevance`, null if nobody judged the pair."""
    if grades is None:
        return pairs.with_columns(relevance=pl.lit(None, pl.Int32))
    known = frame(grades.select(["query_id", "doc_id", "relevance"]))
    return pairs.join(known, on=["query_id", "doc_id"], how="left", maintain_order="left")
