"""Which queries moved, and why: both rankings of a query side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from reranking.arrow import frame

Kind = Literal["new", "gone", "moved", "same"]


@dataclass(frozen=True)
class MovedDocument:
    """One document in two rankings; a rank is None if the ranking lacks it, at any depth.

    `moved` is the number of ranks gained (negative: lost); `grade` is None if nobody judged it.
    """

    doc_id: str
    base_rank: int | None
    candidate_rank: int | None
    kind: Kind
    moved: int | None
    grade: int | None

    @property
    def reason(self) -> str:
        """The change in words, such as `moved +3, grade 2` or `new, unjudged`."""
        change = self.kind if not self.moved else f"moved {self.moved:+d}"
        return f"{change}, {'unjudged' if self.grade is None else f'grade {self.grade}'}"


@dataclass(frozen=True)
class MovedQuery:
    """A query with the primary measure's values and the documents of both top k."""

    query_id: str
    base: float
    candidate: float
    difference: float
    documents: tuple[MovedDocument, ...]


def moved_queries(
    values: Mapping[str, tuple[float, float]],
    base: Mapping[str, Sequence[str]],
    candidate: Mapping[str, Sequence[str]],
    judgments: pa.Table,
    *,
    k: int,
    limit: int,
) -> tuple[MovedQuery, ...]:
    """Return the `limit` queries whose (base, candidate) values differ most, largest first.

    `values` holds the primary measure per query. Queries without a difference are not listed.
    """
    differing = [q for q, (a, b) in values.items() if a != b]
    differing.sort(key=lambda q: (-abs(values[q][1] - values[q][0]), q))
    chosen = differing[:limit]
    grades = _grades(judgments, chosen)
    return tuple(
        MovedQuery(
            query_id=query_id,
            base=values[query_id][0],
            candidate=values[query_id][1],
            difference=values[query_id][1] - values[query_id][0],
            documents=moved_documents(
                base.get(query_id, ()), candidate.get(query_id, ()), grades[query_id], k
            ),
        )
        for query_id in chosen
    )


def moved_documents(
    base: Sequence[str], candidate: Sequence[str], grades: Mapping[str, int], k: int
) -> tuple[MovedDocument, ...]:
    """Return every document in either top `k`: the candidate's in order, then those that left."""
    base_ranks = {doc_id: rank for rank, doc_id in enumerate(base, 1)}
    candidate_ranks = {doc_id: rank for rank, doc_id in enumerate(candidate, 1)}
    shown = dict.fromkeys([*candidate[:k], *base[:k]])
    return tuple(
        _moved(doc_id, base_ranks.get(doc_id), candidate_ranks.get(doc_id), grades.get(doc_id))
        for doc_id in shown
    )


def _moved(
    doc_id: str, base: int | None, candidate: int | None, grade: int | None
) -> MovedDocument:
    if base is None:
        return MovedDocument(doc_id, None, candidate, "new", None, grade)
    if candidate is None:
        return MovedDocument(doc_id, base, None, "gone", None, grade)
    kind: Kind = "same" if base == candidate else "moved"
    return MovedDocument(doc_id, base, candidate, kind, base - candidate, grade)


def _grades(judgments: pa.Table, query_ids: list[str]) -> dict[str, dict[str, int]]:
    grades: dict[str, dict[str, int]] = {query_id: {} for query_id in query_ids}
    rows = frame(judgments.select(["query_id", "doc_id", "relevance"]))
    for query_id, doc_id, grade in rows.filter(rows["query_id"].is_in(query_ids)).iter_rows():
        grades[query_id][doc_id] = grade
    return grades
