"""What can be compared: the queries that two runs and the judgments see alike.

A query is compared if both runs know it with the same text and every document judged for it is in
both corpora with the same text. What is left out is reported, never dropped in silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import polars as pl
import pyarrow as pa

from reranking.arrow import frame
from reranking.errors import InputError

_EXAMPLES: Final = 5


@dataclass(frozen=True)
class SideTables:
    """What one side of a comparison reads.

    `rankings` has query_id, query_type, doc_id, rank; `queries` has query_id, text_hash for every
    query of the run, also those without hits; `documents` has doc_id, text_hash for (at least) the
    judged documents that the run's corpus contains.
    """

    name: str
    rankings: pa.Table
    queries: pa.Table
    documents: pa.Table


@dataclass(frozen=True)
class Notice:
    """Queries that were left out for one reason; `drift` if the two runs' inputs differ there."""

    reason: str
    queries: int
    examples: tuple[str, ...]
    drift: bool


@dataclass(frozen=True)
class Comparable:
    """`shared`: in both runs with the same text. `compared`: those that judgments can compare."""

    shared: list[str]
    compared: list[str]
    notices: tuple[Notice, ...]


def comparable(
    base: SideTables, candidate: SideTables, judgments: pa.Table, *, strict: bool = False
) -> Comparable:
    """Return which queries can be compared, and which were left out and why.

    `judgments` has query_id, doc_id, relevance and optionally query_hash (the judged wording).
    With `strict`, raises InputError if the inputs drifted; queries nobody judged are no drift.
    """
    queries = _joined_queries(base, candidate)
    worded = pl.col("base_hash") == pl.col("candidate_hash")
    shared = queries.filter(worded.fill_null(False)).select("query_id", "base_hash")
    judged = frame(judgments).join(shared, on="query_id", how="inner")
    reasons = [
        *_query_reasons(queries, base, candidate),
        *_judgment_reasons(judged, shared),
        *_document_reasons(judged, base, candidate),
    ]
    left_out: set[str] = set()
    notices = []
    for reason, drift, ids in reasons:
        fresh = [query_id for query_id in ids if query_id not in left_out]
        left_out.update(fresh)
        if fresh:
            notices.append(Notice(reason, len(fresh), tuple(fresh[:_EXAMPLES]), drift))
    if strict and any(notice.drift for notice in notices):
        raise InputError(_refusal(base, candidate, notices))
    ids = shared["query_id"].to_list()
    return Comparable(ids, [q for q in ids if q not in left_out], tuple(notices))


Reason = tuple[str, bool, list[str]]


def _joined_queries(base: SideTables, candidate: SideTables) -> pl.DataFrame:
    """(query_id, base_hash, candidate_hash) of all queries; a hash is null where a run has none."""
    left = frame(base.queries).select("query_id", base_hash="text_hash")
    right = frame(candidate.queries).select("query_id", candidate_hash="text_hash")
    joined = left.join(right, on="query_id", how="full", coalesce=True)
    return joined.unique("query_id").sort("query_id")


def _query_reasons(
    queries: pl.DataFrame, base: SideTables, candidate: SideTables
) -> Iterator[Reason]:
    absent = {base.name: pl.col("base_hash"), candidate.name: pl.col("candidate_hash")}
    for name, column in absent.items():
        yield f"not among the queries of {name}", True, _ids(queries.filter(column.is_null()))
    reworded = pl.col("base_hash") != pl.col("candidate_hash")
    yield "worded differently in the two runs", True, _ids(queries.filter(reworded))


def _judgment_reasons(judged: pl.DataFrame, shared: pl.DataFrame) -> Iterator[Reason]:
    yield "without any judgment", False, _ids(shared.join(judged, on="query_id", how="anti"))
    if "query_hash" in judged.columns:
        other = judged.filter(pl.col("query_hash") != pl.col("base_hash"))
        yield "judged for another wording", True, _ids(other)


def _document_reasons(
    judged: pl.DataFrame, base: SideTables, candidate: SideTables
) -> Iterator[Reason]:
    left = frame(base.documents).select("doc_id", base_doc="text_hash").unique("doc_id")
    right = frame(candidate.documents).select("doc_id", candidate_doc="text_hash").unique("doc_id")
    placed = judged.join(left, on="doc_id", how="left").join(right, on="doc_id", how="left")
    for name, column in ((base.name, "base_doc"), (candidate.name, "candidate_doc")):
        missing = placed.filter(pl.col(column).is_null())
        yield f"with a judged document that is not in the corpus of {name}", True, _ids(missing)
    changed = placed.filter(pl.col("base_doc") != pl.col("candidate_doc"))
    yield "with a judged document whose text differs between the runs", True, _ids(changed)


def _ids(rows: pl.DataFrame) -> list[str]:
    return rows["query_id"].unique().sort().to_list()


def _refusal(base: SideTables, candidate: SideTables, notices: list[Notice]) -> str:
    listed = "\n  ".join(
        f"{n.queries} queries {n.reason} (such as {', '.join(n.examples)})"
        for n in notices
        if n.drift
    )
    return (
        f"{base.name} and {candidate.name} did not see the same inputs:\n  {listed}\n"
        "Compare without strict to leave these queries out, or run both on the same inputs."
    )
