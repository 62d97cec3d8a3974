"""Tidy the pair-score store: one row per pair and reranker, and nothing that nobody wants.

Rows are deleted by their address in the table. Appends never move a row and compaction never uses
an address again, so rows that a run adds meanwhile survive, and of two tidiers at the same time
none deletes what the other one kept. Readers prefer the earliest row of the highest epoch: that
one stays, so that no run's results change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from lancedb.expr import col, lit
from numpy.typing import NDArray

from reranking.runs.pairs import TABLE
from reranking.store import Database, equals, one_of

Words = NDArray[np.uint64]
_PER_DELETE = 100_000  # addresses; a condition of a million takes gigabytes
_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Wanted:
    """Whose scores to keep: fingerprints of rerankers, hashes of query and of document texts."""

    rerankers: frozenset[bytes]
    queries: frozenset[bytes]
    documents: frozenset[bytes]


@dataclass(frozen=True)
class Tidied:
    """Rows of the store: how many there were, and how many went as duplicates or as unwanted."""

    rows: int = 0
    duplicates: int = 0
    unwanted: int = 0


def tidy_scores(
    database: Database,
    wanted: Callable[[], Wanted] | None = None,
    *,
    dry_run: bool = False,
) -> Tidied:
    """Delete duplicates and, if `wanted` is given, scores of other models and texts; the counts.

    Only rows that were there before `wanted` was asked are looked at: what a run begun since then
    adds is its own business. Memory: about 100 bytes per score of the reranker that has most.
    """
    table = database.open(TABLE)
    if table is None:
        return Tidied()
    version = int(table.version)
    known = None if wanted is None else wanted()
    rows = duplicates = unwanted = 0
    for reranker, (count, last) in _rerankers(database, version).items():
        rows += count
        if known is not None and reranker not in known.rerankers:
            unwanted += count
            if not dry_run:
                before = col("_rowid") <= lit(last)
                database.delete(TABLE, equals("reranker", reranker) & before)
            continue
        stored = _Stored.of(database, version, reranker, known)
        twice = superseded(stored)
        duplicates += len(twice)
        unwanted += len(stored.unwanted)
        if not dry_run:
            _delete(database, np.concatenate([twice, stored.unwanted]))
    return Tidied(rows, duplicates, unwanted)


@dataclass(frozen=True)
class _Stored:
    """One reranker's wanted rows: 128 bits of key, epoch, address; and the others' addresses."""

    first: Words
    second: Words
    epoch: NDArray[np.int32]
    address: Words
    unwanted: Words

    @staticmethod
    def of(database: Database, version: int, reranker: bytes, wanted: Wanted | None) -> _Stored:
        queries = None if wanted is None else _first_words(wanted.queries)
        documents = None if wanted is None else _first_words(wanted.documents)
        parts: list[tuple[Words, Words, NDArray[np.int32], Words]] = []
        others: list[Words] = [np.empty(0, np.uint64)]
        columns = ["query_hash", "doc_hash", "epoch", "score"]
        where = equals("reranker", reranker)
        for batch in database.stream(TABLE, where, columns, version, row_ids=True):
            query, document = _words(batch.column("query_hash")), _words(batch.column("doc_hash"))
            address = batch.column("_rowid").to_numpy()
            epoch = batch.column("epoch").to_numpy()
            keep = _among(query[:, 0], queries) & _among(document[:, 0], documents)
            keep &= np.isfinite(batch.column("score").to_numpy())  # no reader takes the others
            others.append(address[~keep])
            # Swapped and multiplied, so that (a, b) and (b, a) are two keys.
            first = query[:, 0] ^ (document[:, 1] * _ODD)
            second = query[:, 1] ^ (document[:, 0] * _ODD)
            parts.append((first[keep], second[keep], epoch[keep], address[keep]))
        return _Stored(
            first=_joined([p[0] for p in parts]),
            second=_joined([p[1] for p in parts]),
            epoch=np.concatenate([np.empty(0, np.int32), *(p[2] for p in parts)]),
            address=_joined([p[3] for p in parts]),
            unwanted=np.concatenate(others),
        )


def superseded(stored: _Stored) -> Words:
    """The addresses of rows whose key has a higher epoch, or the same one earlier in the store."""
    order = np.argsort(stored.first, kind="stable")
    same = np.diff(stored.first[order]) == 0
    some = np.concatenate([[False], same]) | np.concatenate([same, [False]])
    at = order[some[: len(order)]]
    copies = pl.DataFrame(
        {
            "first": stored.first[at],
            "second": stored.second[at],
            "epoch": stored.epoch[at],
            "position": at,
        }
    ).sort(["epoch", "position"], descending=[True, False])
    stays = copies.unique(["first", "second"], keep="first", maintain_order=True)
    goes = copies.join(stays, on="position", how="anti")
    gone: Words = stored.address[np.sort(goes["position"].to_numpy())]
    return gone


def _delete(database: Database, addresses: Words) -> None:
    for start in range(0, len(addresses), _PER_DELETE):
        part = addresses[start : start + _PER_DELETE].tolist()
        database.delete(TABLE, one_of("_rowid", part))


def _rerankers(database: Database, version: int) -> dict[bytes, tuple[int, int]]:
    """How many rows each reranker has, and the highest address in the store at that version."""
    counts: Counter[bytes] = Counter()
    last = 0
    for batch in database.stream(TABLE, None, ["reranker"], version, row_ids=True):
        last = max(last, pc.max(batch.column("_rowid")).as_py() or 0)
        for entry in batch.column("reranker").value_counts().to_pylist():
            counts[entry["values"]] += entry["counts"]
    return {reranker: (count, last) for reranker, count in counts.items()}


def _words(hashes: pa.Array) -> Words:
    """The hashes as (n, 2) unsigned words, without a copy."""
    buffer = hashes.buffers()[1]
    every: Words = np.frombuffer(buffer or b"", np.uint64)
    return every[2 * hashes.offset : 2 * (hashes.offset + len(hashes))].reshape(-1, 2)


def _first_words(hashes: Iterable[bytes]) -> Words:
    """The first 8 bytes of each hash: two texts that agree in them are kept or dropped together."""
    return np.unique(np.frombuffer(b"".join(hashes), np.uint64)[::2])


def _among(words: Words, known: Words | None) -> NDArray[np.bool_]:
    """Which of the words are known (given in order); all of them where None is given."""
    if known is None or not len(known):
        return np.full(len(words), known is None)
    at = np.minimum(np.searchsorted(known, words), len(known) - 1)
    return np.asarray(known[at] == words)


def _joined(parts: Iterable[Words]) -> Words:
    return np.concatenate([np.empty(0, np.uint64), *parts])
