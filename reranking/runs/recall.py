"""What an approximate index loses, and how it has to be searched so that it loses little enough.

The hits of a sample of the run's own queries are compared with those of exact search. Settings of
the search that the config leaves open (`nprobes`, `ef`, `refine_factor`) are raised until the
index finds `search.min_recall` of them, or no more of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from configs.schema import Search
from reranking import fingerprints
from reranking.corpus.corpus import Corpus
from reranking.runs.search import QueryEncoder, check_vectors, query_vectors, vector_hits
from reranking.schemas import RECALLS
from reranking.store import Database, equals

log = logging.getLogger(__name__)

TABLE = "recalls"
SAMPLE = 200  # queries
_TIES = 16  # hits beyond the limit that may be as near as the last one
_GAIN = 0.002  # a setting that gains less is not worth what it costs
_KNOBS = ("nprobes", "ef", "refine_factor")
_KINDS = {"nprobes": ("ivf",), "ef": ("hnsw",), "refine_factor": ("pq", "sq", "rq")}
_MOST = {"nprobes": 4096, "ef": 10_000, "refine_factor": 64}


@dataclass(frozen=True)
class Audit:
    """How a recall is found: with which encoder, if not stored; may exact search be what helps?"""

    encoder: QueryEncoder | None = None
    measure: bool = False
    may_bypass: bool = False


UNMEASURED = Audit()


@dataclass(frozen=True)
class Recall:
    """What of exact search's hits an index finds, as it was searched at first and as found."""

    audit_id: str
    index_type: str
    queries: int
    limit: int
    recall: float
    recall_before: float
    found: Mapping[str, Any]  # the settings that were raised

    def applied(self, search: Search) -> Search:
        """The search with what was found."""
        return search.model_copy(update=dict(self.found))

    def to_dict(self) -> dict[str, Any]:
        """The recall as JSON-like values."""
        return {k: v for k, v in asdict(self).items() if k != "audit_id"}

    def __str__(self) -> str:
        first = f"exact search's first {self.limit} on {self.queries} queries ({self.index_type}"
        if self.found.get("bypass_vector_index"):
            return f"{self.recall_before:.3f} of {first}), too few: it is not used"
        if not self.found:
            return f"{self.recall:.3f} of {first})"
        raised = ", ".join(f"{name} {value}" for name, value in self.found.items())
        return f"{self.recall:.3f} of {first}, with {raised}; {self.recall_before:.3f} without)"


def audit_id(inputs: Mapping[str, Any], search: Search, how: Audit) -> str:
    """32 hex digits that name what a recall is measured of."""
    return fingerprints.fingerprint([inputs, search.min_recall, how.may_bypass])


def stored_recall(database: Database, audit: str) -> Recall | None:
    """The recall that was measured of these inputs before; None if none was."""
    rows = database.read(TABLE, equals("audit_id", audit)).to_pylist()
    return _of_row(rows[0]) if rows else None


def recall_of(database: Database, search_id: str) -> Recall | None:
    """The newest recall that was measured for a search; None where nothing was measured."""
    rows = database.read(TABLE, equals("search_id", search_id)).to_pylist()
    return _of_row(max(rows, key=lambda row: row["measured_at"])) if rows else None


def store_recall(database: Database, recall: Recall, search_id: str) -> None:
    """Store what was found; the search that it makes goes by `search_id`."""
    found = {name: recall.found.get(name) for name in _KNOBS}
    row = {
        "audit_id": recall.audit_id,
        "search_id": search_id,
        "index_type": recall.index_type,
        "queries": recall.queries,
        "limit": recall.limit,
        "recall": recall.recall,
        "recall_before": recall.recall_before,
        **found,
        "bypassed": bool(recall.found.get("bypass_vector_index")),
        "measured_at": datetime.now(UTC),
    }
    database.merge(TABLE, pa.Table.from_pylist([row], RECALLS), RECALLS)


def _of_row(row: Mapping[str, Any]) -> Recall:
    found = {name: row[name] for name in _KNOBS if row[name] is not None}
    if row["bypassed"]:
        found["bypass_vector_index"] = True
    names = ("audit_id", "index_type", "queries", "limit", "recall", "recall_before")
    return Recall(**{name: row[name] for name in names}, found=found)


def measure_recall(
    database: Database,
    corpus: Corpus,
    queries: pa.Table,
    search: Search,
    how: Audit,
    *,
    audit: str,
    index_type: str,
) -> Recall:
    """Measure the index on a sample of the queries, and raise what is open until it finds enough.

    Where it never does, exact search is what was found, if it may be.
    """
    sample = sample_of(queries)
    vectors = query_vectors(sample, how.encoder, check_vectors(database, corpus))
    deeper = {"bypass_vector_index": True, "limit": search.limit + _TIES}
    near = vector_hits(database, corpus, vectors, search.model_copy(update=deeper))
    right, count = _right_hits(near, search.limit)

    def recall(settings: Mapping[str, Any]) -> float:
        tried = search.model_copy(update=dict(settings))
        hits = vector_hits(database, corpus, vectors, tried)
        return len(hits.join(right, on=["query", "doc_id"], how="semi")) / count if count else 1.0

    before = recall({})
    least = search.min_recall or 0.0
    found, reached = _raised(recall, before, least, _open_knobs(search, index_type), search.limit)
    if reached < least and how.may_bypass:
        found, reached = {"bypass_vector_index": True}, 1.0
    answer = Recall(audit, index_type, len(sample), search.limit, reached, before, found)
    log.info("the vector index finds %s", answer)
    return answer


def sample_of(queries: pa.Table) -> pa.Table:
    """Queries spread evenly over the set, always the same ones."""
    count = min(SAMPLE, queries.num_rows)
    rows = np.linspace(0, queries.num_rows - 1, count).round().astype(np.int64)
    return queries.sort_by("query_id").take(pa.array(np.unique(rows)))


def _right_hits(near: pl.DataFrame, limit: int) -> tuple[pl.DataFrame, int]:
    """The hits that count as right, and how many of them can be found.

    Documents as near as the last one are as right as it is.
    """
    last = pl.col("_distance").get(limit - 1, null_on_oob=True).over("query")
    right = near.filter(last.is_null() | (pl.col("_distance") <= last))
    counts = near.group_by("query").len()["len"]
    return right.select("query", "doc_id"), int(counts.clip(upper_bound=limit).sum())


def _open_knobs(search: Search, index_type: str) -> dict[str, int]:
    """The settings that the config leaves open and the index knows, with a first raised value.

    LanceDB's own are 20 partitions, one and a half times the limit of HNSW, and no refining.
    """
    first = {"nprobes": 40, "ef": 3 * search.limit, "refine_factor": 2}
    return {
        name: value
        for name, value in first.items()
        if getattr(search, name) is None
        and any(kind in index_type.lower() for kind in _KINDS[name])
    }


def _raised(
    recall: Callable[[Mapping[str, Any]], float],
    reached: float,
    least: float,
    following: dict[str, int],
    limit: int,
) -> tuple[dict[str, int], float]:
    """The settings that reach `least`, or all that helps, and the recall that they reach.

    In each round the one that gains most is doubled; where none gains by itself, all are.
    """
    found: dict[str, int] = {}
    while reached < least and following:
        tries = {name: recall(found | {name: value}) for name, value in following.items()}
        best = max(tries, key=lambda name: tries[name])
        raised, gained = {best: following[best]}, tries[best]
        if gained < reached + _GAIN:
            raised, gained = dict(following), recall(found | following)
        if gained < reached + _GAIN:
            break
        found, reached = found | raised, gained
        following |= {name: 2 * value for name, value in raised.items()}
        following = {n: v for n, v in following.items() if v <= max(_MOST[n], limit)}
    return found, reached
