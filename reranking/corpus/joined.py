"""Several query sets that are searched and scored as one: read, joined, stored, told apart again.

Each is stored under its own name, and all queries together, each once, under that of the whole. A
run is a run of the whole; which of its queries belong to a set is what the set holds today.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from configs.queries import Queries
from reranking.corpus.queries import TABLE, queries_of, store_table
from reranking.corpus.rejects import write_rejects
from reranking.errors import InputError, MissingResource, RescoreError
from reranking.schemas import QUERIES
from reranking.sources import open as sources
from reranking.sources.rows import Reject
from reranking.store import Database, equals, one_of

log = logging.getLogger(__name__)

_EXAMPLES = 5


@dataclass(frozen=True)
class ReadSets:
    """Query sets as they are asked for: the whole, each set that has a source, and its rejects."""

    whole: pa.Table
    read: Mapping[str, pa.Table]
    rejects: Mapping[str, tuple[str, list[Reject]]]  # by set: the source's fingerprint, its rejects

    def store(self, database: Database, name: str) -> int:
        """Store each set that was read, and the whole under its name; the number of rejects."""
        for source_fp, rejects in self.rejects.values():
            write_rejects(database, rejects, source_fp, datetime.now(UTC))
        for one, table in self.read.items():
            store_table(database, one, table)
        store_table(database, name, self.whole)
        return sum(len(rejects) for _, rejects in self.rejects.values())


def read_sets(database: Database, given: Queries) -> ReadSets:
    """Read every set and join them; nothing is written.

    Raises one error that names the faults of all sets: of what is missing, of sets without a usable
    query, of ids that mean different queries.
    """
    faults: list[RescoreError] = []
    tables: dict[str, pa.Table] = {}
    rejects: dict[str, tuple[str, list[Reject]]] = {}
    for name, one in given.sets.items():
        try:
            if one.source is None:
                tables[name] = stored_set(database, name)
                continue
            rows, rejected = queries_of(name, sources.read_queries(one.source))
            rejects[name] = sources.source_fingerprint(one.source, "queries"), rejected
            if not rows.num_rows:
                raise InputError(_nothing_usable(name, rejected))
            tables[name] = rows
        except RescoreError as fault:
            faults.append(fault)
    faults += [InputError(text) for text in collisions(tables)]
    if faults:
        worst = max(faults, key=lambda fault: fault.exit_code)
        raise type(worst)("\n  ".join([f"queries.sets: {len(faults)} at fault", *map(str, faults)]))
    read = {name: table for name, table in tables.items() if name in rejects}
    return ReadSets(join(given.query_set, tables), read, rejects)


def _nothing_usable(name: str, rejects: list[Reject]) -> str:
    example = f": {len(rejects)} rows rejected, e.g. {rejects[0].reason}" if rejects else ""
    return f"query set {name!r} has no usable queries{example}"


def collisions(tables: Mapping[str, pa.Table]) -> list[str]:
    """Return in words which ids are another query in another set, a sentence for two sets."""
    first: dict[str, tuple[str, dict[str, Any]]] = {}
    clashes: dict[tuple[str, str, str], list[str]] = {}
    for name, table in tables.items():
        for row in table.select(["query_id", "text", "vector"]).to_pylist():
            other, known = first.setdefault(row["query_id"], (name, row))
            for what in ("text", "vector"):
                if known[what] != row[what]:
                    clashes.setdefault((other, name, what), []).append(row["query_id"])
                    break
    return [
        f"{len(ids)} query ids have one {what} in {one!r} and another in {other!r} (such as "
        f"{', '.join(ids[:_EXAMPLES])}): an id names one query in all sets, so rename them in one"
        for (one, other, what), ids in clashes.items()
    ]


def join(name: str, tables: Mapping[str, pa.Table]) -> pa.Table:
    """Return all queries of the sets, each once, as the set `name`: with the tags of all sets."""
    rows: dict[str, dict[str, Any]] = {}
    for table in tables.values():
        for row in table.to_pylist():
            known = rows.setdefault(row["query_id"], row | {"query_set": name})
            if tags := [t for t in row["tags"] or [] if t not in (known["tags"] or [])]:
                known["tags"] = [*(known["tags"] or []), *tags]
    return pa.Table.from_pylist(list(rows.values()), QUERIES)


def still_stored(database: Database, names: Iterable[str]) -> tuple[str, ...]:
    """Return those query sets of a stored run's config that are stored; others are told."""
    asked = list(names)
    if not asked:
        return ()
    rows = database.read(TABLE, one_of("query_set", asked), ["query_set"])
    known = set(rows.to_pydict().get("query_set", []))
    if gone := [name for name in asked if name not in known]:
        log.warning("not told by itself, as it is not stored any more: query set %s", gone)
    return tuple(name for name in asked if name in known)


def stored_set(database: Database, name: str) -> pa.Table:
    """Return a query set as it is stored now; raises MissingResource if there is none."""
    rows = database.read(TABLE, equals("query_set", name))
    if not rows.num_rows:
        raise MissingResource(
            f"no query set {name!r} in {database.uri}: give it a `queries.sets.{name}.source`"
        )
    return rows.sort_by("query_id")
