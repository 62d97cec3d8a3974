"""Query sets and judgment lists as they are stored: which there are, and how one is taken back."""

from __future__ import annotations

from typing import Any

import polars as pl

from reranking.arrow import frame
from reranking.errors import MissingResource, nearest
from reranking.store import Database, equals


def query_sets(database: Database) -> list[dict[str, Any]]:
    """Return of each stored query set its queries, those with vectors and tags, and its runs."""
    rows = database.read("queries", columns=["query_set", "tags", "vector"])
    if not rows.num_rows:
        return []
    runs = _count(database, "runs", "query_set")
    lists = _count(database, "judgments", "query_set", "judgment_list")
    counted = (
        frame(rows)
        .group_by("query_set")
        .agg(
            queries=pl.len(),
            with_vector=pl.col("vector").is_not_null().sum(),
            with_tags=pl.col("tags").is_not_null().sum(),
        )
    )
    return [
        row | {"runs": runs.get(row["query_set"], 0), "lists": lists.get(row["query_set"], 0)}
        for row in counted.sort("query_set").to_dicts()
    ]


def queries_of(database: Database, query_set: str) -> list[dict[str, Any]]:
    """Return the queries of a set, by id; raises MissingResource if there is no such set."""
    columns = ["query_id", "text", "tags"]
    rows = database.read("queries", equals("query_set", query_set), columns)
    if not rows.num_rows:
        raise _unknown("query set", query_set, [r["query_set"] for r in query_sets(database)])
    return sorted(rows.to_pylist(), key=lambda row: str(row["query_id"]))


def drop_query_set(database: Database, query_set: str) -> int:
    """Delete the queries of a set; how many they were.

    Finished runs keep reading the version that they pinned, and judgments stay.
    """
    count = len(queries_of(database, query_set))
    database.delete("queries", equals("query_set", query_set))
    return count


def judgment_lists(database: Database) -> list[dict[str, Any]]:
    """Return of each stored judgment list its size, its raters, its grades and their dates."""
    rows = database.read("judgments")
    if not rows.num_rows:
        return []
    made = []
    for (name,), part in frame(rows).partition_by("judgment_list", as_dict=True).items():
        grades = part["relevance"].value_counts().sort("relevance").rows()
        made.append(
            {
                "judgment_list": name,
                "query_sets": sorted(part["query_set"].unique().to_list()),
                "judgments": len(part),
                "queries": part["query_id"].n_unique(),
                "raters": sorted(part["source"].unique().to_list()),
                "grades": {str(grade): count for grade, count in grades},
                "newest": part["judged_at"].max(),
            }
        )
    return sorted(made, key=lambda row: str(row["judgment_list"]))


def judgments_of(
    database: Database, judgment_list: str, rater: str | None = None
) -> list[dict[str, Any]]:
    """Return the judgments of a list, or of one of its raters.

    Raises MissingResource if there is no such list or rater.
    """
    where = equals("judgment_list", judgment_list)
    columns = ["query_set", "query_id", "doc_id", "relevance", "source", "judged_at"]
    rows = database.read("judgments", where, columns).to_pylist()
    if not rows:
        known = [r["judgment_list"] for r in judgment_lists(database)]
        raise _unknown("judgment list", judgment_list, known)
    chosen = [row for row in rows if rater in (None, row["source"])]
    if not chosen:
        raise _unknown("rater", str(rater), sorted({row["source"] for row in rows}))
    return sorted(chosen, key=lambda r: (r["query_set"], r["query_id"], r["doc_id"], r["source"]))


def drop_judgments(database: Database, judgment_list: str, rater: str | None = None) -> int:
    """Delete a judgment list, or what one rater gave; how many judgments they were.

    Measures on a list that is gone go too: nothing could make them again.
    """
    count = len(judgments_of(database, judgment_list, rater))
    where = equals("judgment_list", judgment_list)
    database.delete("judgments", where if rater is None else where & equals("source", rater))
    if rater is None:
        database.delete("metrics", where)
    return count


def _count(database: Database, table: str, by: str, distinct: str | None = None) -> dict[str, int]:
    rows = database.read(table, columns=[by] if distinct is None else [by, distinct])
    if not rows.num_rows:
        return {}
    counted = frame(rows).unique() if distinct is not None else frame(rows)
    return dict(counted.group_by(by).agg(pl.len()).iter_rows())


def _unknown(what: str, name: str, known: list[str]) -> MissingResource:
    stored = ", ".join(known[:20]) or "none"
    return MissingResource(f"no {what} {name!r} is stored (stored: {stored}){nearest(name, known)}")
