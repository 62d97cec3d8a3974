"""Judgment lists as they are read: which exist, the grades that hold, and for which wording."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from reranking.arrow import frame
from reranking.errors import ConfigError, MissingResource
from reranking.fingerprints import ContentDigest, canonical
from reranking.judgments.consensus import from_labels, lower_median
from reranking.schemas import JUDGMENTS
from reranking.store import Database, equals, one_of

TABLE = "judgments"


@dataclass(frozen=True)
class Grades:
    """One grade per query and document: query_id, doc_id, relevance; and what names them.

    `stale` counts the grades that belong to an older wording of their query and do not count.
    """

    table: pa.Table
    fingerprint: str
    stale: int


def list_judgments(database: Database, query_set: str) -> list[str]:
    """Return the names of the judgment lists for a query set."""
    rows = database.read(TABLE, equals("query_set", query_set), columns=["judgment_list"])
    return sorted(set(rows.to_pydict().get("judgment_list", [])))


def choose_list(
    database: Database, query_set: str, asked: str | None, preferred: Sequence[str | None]
) -> str | None:
    """Return `asked`, else the first of `preferred` that is stored, else the query set's only list.

    Returns None if no list is stored for the query set; raises ConfigError if several are and
    nothing says which one.
    """
    if asked is not None:
        return asked
    stored = list_judgments(database, query_set)
    for name in preferred:
        if name in stored:
            return name
    if len(stored) > 1:
        raise ConfigError(
            f"there are several judgment lists for query set {query_set!r}: "
            f"choose one of {', '.join(stored)} with --judgments"
        )
    return stored[0] if stored else None


def stored_list(database: Database, judgment_list: str) -> pa.Table:
    """Return all rows of one list, the schema JUDGMENTS; none if no such list is stored."""
    rows = database.read(TABLE, equals("judgment_list", judgment_list))
    return rows if rows.num_columns else JUDGMENTS.empty_table()


def read_lists(database: Database, lists: Sequence[str], query_set: str) -> pa.Table:
    """Return the judgments of several lists for a query set, the schema JUDGMENTS.

    With several lists a source is named LIST/RATER, since `imported` may mean two people. Raises
    MissingResource for an unknown list.
    """
    if not lists:
        return JUDGMENTS.empty_table()
    rows = database.read(TABLE, one_of("judgment_list", lists))
    known = set(rows.column("judgment_list").to_pylist()) if rows.num_columns else set()
    if missing := [name for name in lists if name not in known]:
        raise MissingResource(
            f"no judgment list {', '.join(missing)} in {database.uri}: `rescore run` imports the "
            "config's own, `rescore worklist-import` people's answers"
        )
    judgments = frame(rows).filter(pl.col("query_set") == query_set)
    if len(lists) > 1:
        named = pl.concat_str("judgment_list", "source", separator="/")
        judgments = judgments.with_columns(
            pl.when(from_labels()).then("source").otherwise(named).alias("source")
        )
    return judgments.sort("query_id", "doc_id", "source").to_arrow()


def current_wording(judgments: pa.Table, queries: pa.Table) -> pa.Table:
    """Return the judgments that were given for the queries' present texts."""
    return frame(judgments).join(_wording(queries), on=_WORDED, how="semi").to_arrow()


_WORDED = ["query_id", "query_hash"]


def _wording(queries: pa.Table) -> pl.DataFrame:
    """The present wording of each query: query_id, query_hash."""
    return frame(queries).select("query_id", pl.col("text_hash").alias("query_hash"))


def grades(
    database: Database, judgment_list: str, queries: pa.Table, ignore_identical_ids: bool = False
) -> Grades:
    """Return the grades that hold for these queries' present texts.

    With `ignore_identical_ids` those of a document named like its query are left out. If several
    sources judged a pair, people and imports come before label sets, and the lower median of their
    grades counts. Raises MissingResource if there is no such list.
    """
    rows = frame(stored_list(database, judgment_list))
    if not len(rows):
        raise MissingResource(
            f"no judgment list {judgment_list!r} in {database.uri}: give it a `judgments.source`"
        )
    current = _wording(queries)
    of_queries = rows.join(current, on="query_id", how="semi")
    valid = of_queries.join(current, on=_WORDED, how="semi").with_columns(derived=from_labels())
    first = valid.filter(pl.col("derived") == pl.col("derived").min().over("query_id", "doc_id"))
    one = first.group_by("query_id", "doc_id").agg(lower_median()).sort("query_id", "doc_id")
    content = ContentDigest()
    if ignore_identical_ids:
        one = one.filter(pl.col("query_id") != pl.col("doc_id"))
        content.add([b"ignore_identical_ids"])
    content.add(canonical(list(row)).encode() for row in one.iter_rows())
    return Grades(one.to_arrow(), content.hex(), len(of_queries) - len(valid))


def worded_grades(
    database: Database, judgment_list: str, queries: pa.Table, ignore_identical_ids: bool = False
) -> tuple[pa.Table, str]:
    """Return as `grades`, with the wording each was given for (query_hash); and what names them.

    A query with nothing but grades for another wording keeps those, so that it can be told apart
    from one that nobody judged.
    """
    valid = grades(database, judgment_list, queries, ignore_identical_ids)
    current = _wording(queries)
    good = frame(valid.table).join(current, on="query_id", how="left")
    old = frame(stored_list(database, judgment_list)).join(current, on=_WORDED, how="anti")
    old = old.join(good, on="query_id", how="anti").unique(["query_id", "doc_id"], keep="first")
    return pl.concat([good, old.select(good.columns)]).to_arrow(), valid.fingerprint
