"""How long a sweep takes: stored candidates and scores read, about 100 settings measured, chosen.

    python -m benchmarks.sweep --queries 10000

Rows are synthetic (100 candidates a query) but stored by the product itself. Times are seconds by
the clock and CPU seconds of this process; no model is loaded.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.unit_costs import PER_QUERY, RERANKER, append_pairs, hashes_of, made_candidates
from configs.evaluation import ComparisonSettings
from reranking.evaluation.sweep.pool import pool_of
from reranking.evaluation.sweep.run_sweep import sweep
from reranking.evaluation.sweep.select import folds
from reranking.evaluation.sweep.settings import Setting
from reranking.schemas import SEARCHES
from reranking.store import Database

CHUNK = 1000  # queries


def main() -> None:
    """Sweep a stored run and print the seconds of each part, as a table or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = swept(Path(folder), options.queries)
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:32} {value:>12,.2f}" if isinstance(value, float) else f"{name:32} {value}")


def swept(folder: Path, queries: int) -> dict[str, Any]:
    """Seconds of reading and of measuring, and how many settings there were."""
    run, judged = stored_run(folder, queries)
    found: dict[str, Any] = {"queries": queries, "candidates per query": PER_QUERY}
    with timed(found, "read"):
        pool = pool_of(run, judged)
    with timed(found, "measure and choose"):
        made = sweep(
            pool,
            judged,
            ComparisonSettings(),
            Setting("hybrid", 60, reranked=True),
            ("vector", "fts", "hybrid"),
            metric="cosine",
            rate=None,
            parts=folds(pool.query_ids),
        )
    found["settings"] = len({p.option.setting for c in made.choices for p in c.points})
    found["seconds in all"] = found["read, s"] + found["measure and choose, s"]
    return found


@contextmanager
def timed(found: dict[str, Any], name: str) -> Iterator[None]:
    """Add the block's seconds, by the clock and of the CPU."""
    wall, cpu = time.monotonic(), time.process_time()
    yield
    found[f"{name}, s"] = time.monotonic() - wall
    found[f"{name}, CPU s"] = time.process_time() - cpu


def stored_run(folder: Path, queries: int) -> tuple[Any, pa.Table]:
    """As much of a run as a sweep reads, and three judged candidates of each query."""
    database = Database(str(folder / "db.lancedb"))
    candidates = made_candidates(queries * PER_QUERY, 12)
    by_chunk = np.arange(len(candidates)) // (CHUNK * PER_QUERY)
    numbers = np.random.default_rng(3).permutation(len(candidates))  # a document once a query
    for name, column in (
        ("doc_id", pa.array([f"{i:012d}" for i in numbers])),
        ("doc_hash", hashes_of(numbers + 1_000_003)),
        ("attempt", pa.array([f"{chunk:032d}" for chunk in by_chunk])),
    ):
        place = candidates.schema.get_field_index(name)
        candidates = candidates.set_column(place, candidates.schema.field(name), column)
    database.append("candidates", candidates)
    append_pairs(database, candidates.select(["query_hash", "doc_hash"]))
    ids = candidates["query_id"].to_numpy()[::PER_QUERY]
    marks = [
        {
            "search_id": "s" * 32,
            "chunk": chunk,
            "epoch": 0,
            "attempt": f"{chunk:032d}",
            "queries": CHUNK,
            "hits_vector": _hits(candidates, "vector", by_chunk == chunk),
            "hits_fts": _hits(candidates, "fts", by_chunk == chunk),
            "no_hits": 0,
            "documents_version": 1,
            "searched_at": datetime.now(UTC),
        }
        for chunk in range(-(-queries // CHUNK))
    ]
    database.merge("searches", pa.Table.from_pylist(marks, SEARCHES), SEARCHES, update=False)
    rows = pa.table({"query_id": ids, "text_hash": hashes_of(np.arange(queries))})
    rng = np.random.default_rng(7)
    at = (
        np.arange(queries)[:, None] * PER_QUERY + rng.integers(0, PER_QUERY, (queries, 3))
    ).ravel()
    judged = candidates.select(["query_id", "doc_id"]).take(pa.array(at))
    judged = judged.append_column("relevance", pa.array(rng.integers(0, 3, len(at)), pa.int32()))
    judged = judged.group_by(["query_id", "doc_id"]).aggregate([("relevance", "max")])
    judged = judged.rename_columns(["query_id", "doc_id", "relevance"])
    run = SimpleNamespace(
        database=database,
        search_id="s" * 32,
        least_epoch=0,
        chunks=range(len(marks)),
        reranker=RERANKER.hex(),
        refiner=None,
        query_rows=rows,
    )
    return run, judged


def _hits(candidates: pa.Table, leg: str, chosen: np.ndarray) -> int:
    ranks = candidates.filter(pa.array(chosen))[f"{leg}_rank"]
    return int(len(ranks) - ranks.null_count)


if __name__ == "__main__":
    main()
