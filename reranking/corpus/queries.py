"""Query sets: stored under a name, read back at a version, in the order of their ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from reranking import memory
from reranking.corpus.rejects import write_rejects
from reranking.errors import InputError, MissingResource
from reranking.fingerprints import ContentDigest, canonical, digest, text_hash
from reranking.schemas import QUERIES, conform
from reranking.sources.rows import Reject, Row
from reranking.store import Database, equals

TABLE = "queries"
_AT_ONCE = 2_000  # queries that are Python's objects at the same time
_TIMES = 3  # as read, as stored before, and sorted
_NAMED = ["query_id", "text_hash", "vector"]  # what the set's digest is of
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
    """The rows as queries (schema QUERIES), and those that cannot be one.

    Raises InputError for a set that this machine's memory cannot hold.
    """
    parts = [QUERIES.empty_table()]
    waiting: list[dict[str, Any]] = []
    known: set[str] = set()
    rejects: list[Reject] = []
    held = 0
    for row in rows:
        if isinstance(row, Reject):
            rejects.append(row)
        elif (query_id := str(row.values["query_id"])) in known:
            rejects.append(Reject(row.number, query_id, "duplicate id", None))
        else:
            known.add(query_id)
            waiting.append(_query(name, query_id, row.values))
        if len(waiting) >= _AT_ONCE:
            parts.append(pa.Table.from_pylist(waiting, QUERIES))
            waiting.clear()
            held += parts[-1].nbytes
            _check_memory(name, len(known), held)
    parts.append(pa.Table.from_pylist(waiting, QUERIES))
    return pa.concat_tables(parts), rejects


def _check_memory(name: str, count: int, held: int) -> None:
    """Raise InputError where what is still to be done with so many bytes will find no room."""
    left = memory.available()
    if left is not None and _TIMES * held > left:
        raise InputError(
            f"query set {name!r} does not fit into memory: its first {count:,} queries take "
            f"{held / 1e6:,.0f} MB, a run holds a set {_TIMES} times for a moment, and "
            f"{left / 1e6:,.0f} MB are free. Nothing of it was stored. Split it into query sets of "
            "their own, each with a run of its own (pairs are scored once for all of them), or use "
            "a machine with more memory"
        )


def pin_queries(database: Database, name: str) -> QuerySet:
    """The query set as it is now; raises MissingResource if none has that name."""
    table = database.open(TABLE)
    version = 0 if table is None else int(table.version)
    content, of_set = ContentDigest(), equals("query_set", name)
    for batch in database.stream(TABLE, of_set, _NAMED, version=version or None, rows=_AT_ONCE):
        content.add(_identity(row) for row in batch.to_pylist())
    if not content.rows:
        raise MissingResource(
            f"no query set {name!r} in {database.uri}: give it a `queries.source`"
        )
    return QuerySet(name, version, content.hex(), content.rows)


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
    stored, asked = (
        conform(t.select(wanted.column_names), QUERIES).sort_by("query_id")
        for t in (stored, wanted)
    )
    return bool(stored.equals(asked))


def lacks_vectors(database: Database, name: str) -> bool:
    """Whether a query of the stored set has no vector; True for a set that is not stored yet."""
    rows = database.read("queries", equals("query_set", name), ["vector"])
    return not rows.num_rows or rows.column("vector").null_count > 0
