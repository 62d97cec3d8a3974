"""Judgment lists: grades by people or imported ones, stored under a name.

A grade belongs to the text of the query that was judged. Importing the same file after a query was
reworded does not carry its grades over: they stay with the old text, are counted as stale, and do
not enter a measure until somebody says that they still hold (`accept_reworded`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa

from reranking.arrow import frame
from reranking.corpus.rejects import write_rejects
from reranking.errors import InputError
from reranking.judgments.lists import TABLE, stored_list
from reranking.judgments.texts import QueryTexts
from reranking.schemas import JUDGMENTS
from reranking.sources.rows import Reject, Row
from reranking.store import Database, equals

_VALUES = ["query_id", "query_hash", "doc_id", "source", "relevance"]


@dataclass(frozen=True)
class JudgmentImport:
    """What an import did: rows stored, rejected, and left with an older wording of the query."""

    stored: int
    rejected: int
    stale: int


def store_judgments(
    database: Database,
    judgment_list: str,
    queries: pa.Table,
    rows: Iterator[Row | Reject],
    *,
    rater: str,
    source_fp: str,
    accept_reworded: bool = False,
) -> JudgmentImport:
    """Make the list's grades of the sources in `rows` equal to them, in one commit.

    `queries` is the query set they are for (schema QUERIES); a row may name its query by
    `query_text` instead of `query_id`, which judges all queries of that text. Of two grades of a
    pair by one rater the first holds, another one is a reject. Raises InputError if no row is
    usable.
    """
    known = _Queries(queries)
    good: dict[tuple[str, str, str], dict[str, Any]] = {}
    rejects: list[Reject] = []
    for row in rows:
        if isinstance(row, Reject):
            rejects.append(row)
            continue
        made = known.judgments(row, judgment_list, rater)
        if not made:
            name = row.values.get("query_id", row.values.get("query_text"))
            rejects.append(Reject(row.number, str(name), "judges a query not in the set", None))
        for one in made:
            first = good.setdefault((one["query_id"], one["doc_id"], one["source"]), one)
            if first["relevance"] != one["relevance"]:
                rejects.append(_contradiction(row, first, one))
                break  # one reject a row, however many queries have its text
    write_rejects(database, rejects, source_fp, datetime.now(UTC))
    if not good:
        reason = f"; {len(rejects)} rows rejected, e.g. {rejects[0].reason}" if rejects else ""
        raise InputError(f"judgment list {judgment_list!r} has no usable rows{reason}")
    stored = stored_list(database, judgment_list)
    stale = 0 if accept_reworded else _keep_old_wording(good, stored)
    wanted = pa.Table.from_pylist(list(good.values()), JUDGMENTS)
    _write(database, judgment_list, wanted, stored)
    return JudgmentImport(len(good), len(rejects), stale)


def add_judgments(database: Database, judgment_list: str, judgments: pa.Table) -> int:
    """Add raters' grades (JUDGMENTS) to the list in one commit; return how many were stored before.

    A rater's grade of a pair replaces that rater's earlier one; no other row is touched.
    """
    stored = stored_list(database, judgment_list)
    new = frame(judgments.select(_VALUES)).join(
        frame(stored.select(_VALUES)), on=_VALUES, how="anti"
    )
    if new.height:
        database.merge(TABLE, judgments, JUDGMENTS)
    return len(judgments) - new.height


class _Queries:
    def __init__(self, queries: pa.Table) -> None:
        rows = queries.select(["query_set", "query_id", "text", "text_hash"])
        self.by_id = {r["query_id"]: r for r in rows.to_pylist()}
        self.by_text = QueryTexts(rows)

    def judgments(self, row: Row, judgment_list: str, rater: str) -> list[dict[str, Any]]:
        """The row as a judgment of each query that it names; none if it names none of the set."""
        values = row.values
        if "query_id" in values:
            named = [q for q in [self.by_id.get(str(values["query_id"]))] if q is not None]
        else:
            named = self.by_text.named(str(values.get("query_text")))
        return [
            {
                "judgment_list": judgment_list,
                "query_set": query["query_set"],
                "query_id": query["query_id"],
                "query_hash": query["text_hash"],
                "doc_id": str(values["doc_id"]),
                "relevance": values["relevance"],
                "source": str(values.get("source") or rater),
                "judged_at": values.get("judged_at"),
            }
            for query in named
        ]


def _contradiction(row: Row, first: dict[str, Any], second: dict[str, Any]) -> Reject:
    reason = (
        f"document {str(second['doc_id'])[:200]!r} is graded {second['relevance']} here and "
        f"{first['relevance']} before, by the same rater"
    )
    return Reject(row.number, str(second["query_id"]), reason, None)


def _keep_old_wording(good: dict[tuple[str, str, str], dict[str, Any]], stored: pa.Table) -> int:
    """Leave grades that were stored for another wording with it; how many those are."""
    stale = 0
    for old in stored.select(_VALUES).to_pylist():
        new = good.get((old["query_id"], old["doc_id"], old["source"]))
        if new is not None and new["query_hash"] != old["query_hash"]:
            new["query_hash"] = old["query_hash"]
            stale += 1
    return stale


def _write(database: Database, judgment_list: str, wanted: pa.Table, stored: pa.Table) -> None:
    sources = wanted.column("source").unique().to_pylist()
    before = frame(stored.select(_VALUES)).filter(pl.col("source").is_in(sources))
    if before.sort(_VALUES).equals(frame(wanted.select(_VALUES)).sort(_VALUES)):
        return
    of_list = equals("judgment_list", judgment_list)
    for source in sources:
        part = wanted.filter(pa.compute.equal(wanted["source"], source))
        database.merge(TABLE, part, JUDGMENTS, replacing=of_list & equals("source", source))
