"""The pair-score store: one lookup of many pairs among many more, and appends as it grows.

    python benchmarks/store.py --stored 10000000 --pairs 1000000

Stored are the pairs of a few rerankers; looked up are the pairs of one run with one of them, a
part of which was never scored. Every figure is measured in a process of its own, so that peak
memory (the most resident memory of that process, less what it had before) is the step's own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from reranking.arrow import frame
from reranking.runs.pairs import TABLE, PairScores
from reranking.schemas import PAIR_SCORES
from reranking.store import Database
from reranking.upkeep.tidy import tidy_scores

RERANKERS = [bytes([i]) * 16 for i in range(4)]
DOCUMENTS_PER_QUERY = 100
ROUNDS = 31


@dataclass(frozen=True)
class Sizes:
    """How much is stored, how much is looked up, and what share of that was scored before."""

    stored: int
    pairs: int
    known: float
    commit: int


def pairs(start: int, count: int) -> pa.Table:
    """`count` pairs (query_hash, doc_hash) from number `start` on: 100 documents per query."""
    number = np.arange(start, start + count, dtype=np.uint64)
    query, document = number // DOCUMENTS_PER_QUERY, number % np.uint64(1 << 20)
    return pa.table({"query_hash": hashes(query, 1), "doc_hash": hashes(document, 2)})


def hashes(numbers: np.ndarray, salt: int) -> pa.Array:
    """16 well mixed bytes per number (splitmix64, Steele et al. 2014, twice)."""
    words = np.empty((len(numbers), 2), np.uint64)
    for i in range(2):
        z = numbers + np.uint64((salt * 2 + i) * 0x9E3779B97F4A7C15 % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        words[:, i] = z ^ (z >> np.uint64(31))
    return pa.Array.from_buffers(pa.binary(16), len(numbers), [None, pa.py_buffer(words.tobytes())])


def scored(start: int, count: int, reranker: bytes) -> pa.Table:
    """The pairs with scores: the schema PAIR_SCORES."""
    score = np.random.default_rng(start).normal(size=count).astype(np.float32)
    table = pairs(start, count).append_column("score", pa.array(score))
    table = table.append_column("reranker", pa.array([reranker] * count, pa.binary(16)))
    tokens = np.random.default_rng(start + 1).integers(16, 257, count).astype(np.int32)
    table = table.append_column("epoch", pa.array(np.zeros(count, np.int32)))
    return table.append_column("tokens", pa.array(tokens)).select(PAIR_SCORES.names)


def fill(uri: str, sizes: Sizes) -> dict[str, Any]:
    """Append the store commit by commit, as runs do."""
    database = Database(uri)
    began = time.perf_counter()
    per_reranker = sizes.stored // len(RERANKERS)
    for start in range(0, per_reranker, sizes.commit):
        for reranker in RERANKERS:
            rows = scored(start, min(sizes.commit, per_reranker - start), reranker)
            database.append(TABLE, rows)
    return {"rows": sizes.stored, "seconds": round(time.perf_counter() - began, 1)}


def append(uri: str, sizes: Sizes) -> dict[str, Any]:
    """Milliseconds per append to the full store and to a new one, in turns; the rows are new."""
    with tempfile.TemporaryDirectory() as temporary:
        stores = {"empty_ms": Database(temporary), "full_ms": Database(uri)}
        times: dict[str, list[float]] = {name: [] for name in stores}
        for round_ in range(ROUNDS):
            rows = scored(sizes.stored * 2 + round_ * sizes.commit, sizes.commit, RERANKERS[1])
            for name, database in stores.items():
                began = time.perf_counter()
                database.append(TABLE, rows)
                times[name].append(time.perf_counter() - began)
        versions = stores["full_ms"].need(TABLE).version
    found = {name: round(1000 * median(t[1:]), 1) for name, t in times.items()}
    return {"rows_per_append": sizes.commit, "commits_before": versions - ROUNDS, **found}


def wanted(sizes: Sizes) -> pl.DataFrame:
    """The run's pairs; the share `known` of them stands in the store."""
    known = min(int(sizes.pairs * sizes.known), sizes.stored // len(RERANKERS))
    fresh = pairs(sizes.stored, sizes.pairs - known)
    return frame(pa.concat_tables([pairs(0, known), fresh]))


def look_up(uri: str, sizes: Sizes) -> dict[str, Any]:
    """Seconds of the one streamed pass and of telling known from missing pairs."""
    run = wanted(sizes)
    began = time.perf_counter()
    store = PairScores(Database(uri), RERANKERS[0], run["query_hash"].unique().to_list())
    passed = time.perf_counter()
    missing, found = len(store.missing(run)), len(store.of(run))
    done = time.perf_counter()
    return {
        "stored": sizes.stored,
        "pairs": sizes.pairs,
        "found": found,
        "missing": missing,
        "pass_seconds": round(passed - began, 2),
        "split_seconds": round(done - passed, 2),
    }


def nothing(uri: str, sizes: Sizes) -> dict[str, Any]:
    """The run's pairs and an open store, not looked up: what memory is counted from."""
    run = wanted(sizes)
    Database(uri).names()
    return {"pairs": len(run), "queries": len(run["query_hash"].unique().to_list())}


def maintain(uri: str, sizes: Sizes) -> dict[str, Any]:
    """Seconds of de-duplicating (a tenth of a reranker's pairs came twice) and of compacting."""
    database = Database(uri)
    database.append(TABLE, scored(0, sizes.stored // len(RERANKERS) // 10, RERANKERS[0]))
    began = time.perf_counter()
    report = tidy_scores(database)
    tidied = time.perf_counter()
    database.optimize(TABLE)
    return {
        "removed": report.duplicates,
        "tidy_seconds": round(tidied - began, 2),
        "compact_seconds": round(time.perf_counter() - tidied, 2),
    }


def alone(step: Callable[[str, Sizes], dict[str, Any]], uri: str, sizes: Sizes) -> dict[str, Any]:
    """The step's figures from a fresh process, with that process's peak memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measured, (step, uri, sizes))


def _measured(
    step: Callable[[str, Sizes], dict[str, Any]], uri: str, sizes: Sizes
) -> dict[str, Any]:
    values = step(uri, sizes)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return values | {"peak_mb": round(peak / 1024)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stored", type=int, default=10_000_000)
    parser.add_argument("--pairs", type=int, default=1_000_000)
    parser.add_argument("--known", type=float, default=0.9, help="share of pairs in the store")
    parser.add_argument("--commit", type=int, default=20_000, help="rows per append")
    parser.add_argument("--folder", type=Path, help="keep the database here; None: a temporary one")
    given = parser.parse_args()
    sizes = Sizes(given.stored, given.pairs, given.known, given.commit)
    with tempfile.TemporaryDirectory() as temporary:
        uri = str(given.folder or Path(temporary) / "store.lancedb")
        if not Path(uri).exists():
            print(f"{'fill':12}", json.dumps(alone(fill, uri, sizes)), flush=True)
        steps = {
            "append": append,
            "no look-up": nothing,
            "look up": look_up,
            "maintain": maintain,
            "append then": append,
            "look up then": look_up,
        }
        for name, step in steps.items():
            print(f"{name:12}", json.dumps(alone(step, uri, sizes)), flush=True)


if __name__ == "__main__":
    main()
