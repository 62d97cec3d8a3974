"""Query sets: stored under a name, read back at a version, in the order of their ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from reranking.corpus.rejects import write_rejects
from reranking.errors import InputError, MissingResource
from reranking.fingerprints import ContentDigest, canonical, digest, text_hash
from reranking.schemas import QUERIES
from reranking.sources.rows import Reject, Row
from reranking.store import Database, equals

TABLE = "queries"
_OURS = {"query_id", "text", "tags", "vector"}


@dataclass(frozen=True)
class QuerySet:
    """A stored query set at one version of the table `queries`."""

    name: str
    version: int
    content: str
    count: int


def store_queries(
    database: Database, name: str, rows: Iterator[Row | Reject], source_fp: str
) -> int:
    """Make the stored query set equal to the rows, in one commit; the number of rejects.

    Raises InputError where no row is usable; the stored set is then left as it is.
    """
    wanted, rejects = queries_of(name, rows)
    write_rejects(database, rejects, source_fp, datetime.now(UTC))
    if not wanted.num_rows:
        raise InputError(
            f"query set {name!r} has no usable queries"
            + (f": {len(rejects)} rows rejected, e.g. {rejects[0].reason}" if rejects else "")
        )
    store_table(database, name, wanted)
    return len(rejects)


def store_table(database: Database, name: str, wanted: pa.Table) -> None:
    """Make the stored query set equal to the table (schema QUERIES), in one commit."""
    if not _stored_equal(database, name, wanted):
        database.merge(TABLE, wanted, QUERIES, replacing=equals("query_set", name))


def queries_of(name: str, rows: Iterator[Row | Reject]) -> tuple[pa.Table, list[Reject]]:
    """The rows as queries (schema QUERIES), and those that cannot be one."""
    good: dict[str, dict[str, Any]] = {}
    rejects: list[Reject] = []
    for row in rows:
        if isinstance(row, Reject):
            rejects.append(row)
        elif (query_id := str(row.values["query_id"])) in good:
            rejects.append(Reject(row.number, query_id, "duplicate id", None))
        else:
            good[query_id] = _query(name, query_id, row.values)
    return pa.Table.from_pylist(list(good.values()), QUERIES), rejects


def pin_queries(database: Database, name: str) -> QuerySet:
    """The query set as it is now; raises MissingResource if none has that name."""
    table = database.open(TABLE)
    version = 0 if table is None else int(table.version)
    rows = read_queries(database, QuerySet(name, version, "", 0)) if version else None
    if rows is None or not rows.num_rows:
        raise MissingResource(
            f"no query set {name!r} in {database.uri}: give it a `queries.source`"
        )
    content = ContentDigest()
    content.add(_identity(r) for r in rows.to_pylist())
    return QuerySet(name, version, content.hex(), rows.num_rows)


def read_queries(database: Database, queries: QuerySet) -> pa.Table:
    """The queries of the set at its version, by id: the schema QUERIES."""
    rows = database.read(TABLE, equals("query_set", queries.name), version=queries.version)
    if not rows.num_columns:
        raise MissingResource(f"table {TABLE!r} in {database.uri} is gone: was it dropped?")
    return rows.sort_by("query_id")


def _query(name: str, query_id: str, values: dict[str, Any]) -> dict[str, Any]:
    text = str(values["text"])
    rest = {k: v for k, v in values.items() if k not in _OURS}
    tags = values.get("tags")
    nested = values.get("metadata")
    if tags is None and isinstance(nested, dict):
        tags = nested.get("tags")
    return {
        "query_set": name,
        "query_id": query_id,
        "text": text,
        "text_hash": text_hash(text),
        "tags": [str(t) for t in tags] if isinstance(tags, list) else None,
        "vector": values.get("vector"),
        "metadata": _as_json(rest) if rest else None,
    }


def _as_json(value: dict[str, Any]) -> str:
    """JSON of the values; what JSON cannot say becomes text."""
    return canonical({k: v if _is_json(v) else str(v) for k, v in value.items()})


def _is_json(value: object) -> bool:
    try:
        canonical(value)
    except (TypeError, ValueError):
        return False
    return True


def _identity(row: dict[str, Any]) -> bytes:
    vector = b"" if row["vector"] is None else digest(canonical(row["vector"]).encode())
    return bytes(row["text_hash"]) + vector + str(row["query_id"]).encode("utf-8")


def _stored_equal(database: Database, name: str, wanted: pa.Table) -> bool:
    stored = database.read(TABLE, equals("query_set", name))
    if stored.num_rows != wanted.num_rows:
        return False
    ordered = stored.select(wanted.column_names).sort_by("query_id").to_pylist()
    return bool(ordered == wanted.sort_by("query_id").to_pylist())


def lacks_vectors(database: Database, name: str) -> bool:
    """Whether a query of the stored set has no vector; True for a set that is not stored yet."""
    rows = database.read("queries", equals("query_set", name), ["vector"])
    return not rows.num_rows or rows.column("vector").null_count > 0
