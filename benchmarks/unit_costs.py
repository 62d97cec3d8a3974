"""What one pair, candidate, result, commit, chunk and shard costs: the numbers of docs/scale.md.

    python -m benchmarks.unit_costs --rows 1000000

Rows are synthetic but stored by the product itself: hashes are random, ids have the length of
`--id-length`. Times are CPU seconds of this process and seconds by the clock. Requests are counted
at an S3 emulator on loopback (extra `test`), as the difference of two jobs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from reranking.corpus.corpus import Corpus, content_digest
from reranking.runs.pairs import PairScores
from reranking.runs.ranking import rank_results
from reranking.schemas import CANDIDATES, DOCUMENTS, PAIR_SCORES
from reranking.store import Database

PER_QUERY = 100  # candidates
COMMIT = 100_000  # pairs
MANY, SOME = 300, 10  # commits, of which the first and the last are compared
CHUNKS = (1, 5, 20, 80)  # of the jobs whose requests are counted
MERGED = 10_000  # documents
RERANKER = b"r" * 16


def main() -> None:
    """Measure everything and print it as a table, or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--id-length", type=int, default=12)
    parser.add_argument("--no-requests", action="store_true")
    parser.add_argument("--only-commits", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = commits(Path(folder))
        if not options.only_commits:
            found |= measured(Path(folder), options.rows, options.id_length)
            found |= documents(Path(folder), options.rows)
            if not options.no_requests:
                found |= requests(Path(folder))
    if options.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:44} {value:>14,.4g}" if isinstance(value, float) else f"{name:44} {value}")


def measured(folder: Path, rows: int, id_length: int) -> dict[str, Any]:
    """Bytes per row of each large table; seconds of appending, looking up and ranking."""
    database = Database(str(folder / "db.lancedb"))
    candidates = made_candidates(rows, id_length)
    pairs = candidates.select(["query_hash", "doc_hash"])
    found: dict[str, Any] = {"rows": rows}
    with timed(found, "append pairs, s per million", rows):
        scores = append_pairs(database, pairs)
    found["commits"] = -(-rows // COMMIT)
    with timed(found, "append candidates, s per million", rows):
        database.append("candidates", candidates)
    hashes = pairs["query_hash"].unique().to_pylist()
    before = peak()
    with timed(found, "look up pairs, s per million", rows):
        known = PairScores(database, RERANKER, hashes)
    found["known pairs, bytes each in memory"] = float(known.known.estimated_size()) / rows
    found["looking up, peak bytes per pair"] = (peak() - before) / rows
    few = hashes[: max(1, len(hashes) // 10)]
    with timed(found, "look up a tenth of them, s per million stored", rows):
        PairScores(database, RERANKER, few)
    ranked = rank(candidates, scores, found)
    database.publish("results_x", ranked.schema, lambda: iter(ranked.to_batches()), replace=False)
    found["result rows per candidate, three views"] = ranked.num_rows / rows
    for name, count in (("pair_scores", rows), ("candidates", rows), ("results_x", len(ranked))):
        database.optimize(name)
        found[f"{name}, bytes per row"] = bytes_of(database, name) / count
    return found


def made_candidates(rows: int, id_length: int) -> pa.Table:
    """Candidates of queries with PER_QUERY documents each, half of them found by either leg."""
    rng = np.random.default_rng(1)
    queries = -(-rows // PER_QUERY)
    at = np.arange(rows) // PER_QUERY
    query_ids = np.array([f"query-{i:0{max(1, id_length - 6)}d}" for i in range(queries)])
    doc = rng.integers(0, 10 * rows, rows)
    rank = (np.arange(rows) % PER_QUERY + 1).astype(np.int32)
    by_vector, by_fts = rank <= 60, rank > 40
    score = rng.random(rows).astype(np.float32)
    columns = {
        "search_id": pa.array(["s" * 32] * rows),
        "chunk": pa.array(at // 1000, pa.int32()),
        "attempt": pa.array(["a" * 32] * rows),
        "query_id": pa.array(query_ids[at]),
        "doc_id": pa.array([f"{i:0{id_length}d}" for i in doc]),
        "query_hash": hashes_of(at),
        "doc_hash": hashes_of(doc + 1_000_003),
        "vector_rank": pa.array(rank, mask=~by_vector),
        "_distance": pa.array(score, mask=~by_vector),
        "fts_rank": pa.array(np.maximum(rank - 40, 1), mask=~by_fts),
        "_score": pa.array(score * 20, mask=~by_fts),
    }
    fields = [CANDIDATES.field(name) for name in CANDIDATES.names]
    return pa.table([columns[f.name].cast(f.type) for f in fields], schema=pa.schema(fields))


def hashes_of(numbers: np.ndarray) -> pa.Array:
    """16 bytes per number that look random and are the same for the same number."""
    words = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(77)
    both = np.stack([words ^ (words >> np.uint64(29)), words * np.uint64(0xBF58476D1CE4E5B9)], 1)
    raw = pa.py_buffer(np.ascontiguousarray(both).tobytes())
    return pa.Array.from_buffers(pa.binary(16), len(numbers), [None, raw])


def append_pairs(database: Database, pairs: pa.Table) -> pl.DataFrame:
    """Store a score per pair, COMMIT at a time and in mixed order, as the job does."""
    store = PairScores(database, RERANKER, [])
    rng = np.random.default_rng(2)
    rows = pl.DataFrame(pairs).with_columns(
        score=pl.Series(rng.normal(size=pairs.num_rows).astype(np.float32))
    )
    schema = pa.schema([PAIR_SCORES.field(n) for n in PAIR_SCORES.names])
    for start in range(0, len(rows), COMMIT):
        part = rows[start : start + COMMIT].sample(fraction=1.0, shuffle=True, seed=1).to_arrow()
        marks = {"reranker": RERANKER, "epoch": 0}
        for name, value in marks.items():
            kind = schema.field(name).type
            part = part.append_column(name, pa.array([value] * part.num_rows, kind))
        store.database.append("pair_scores", part)
    return rows


def commits(folder: Path) -> dict[str, Any]:
    """Milliseconds of the first and the last of MANY commits, with the compactions among them."""
    database = Database(str(folder / "commits.lancedb"))
    store, rng = PairScores(database, RERANKER, []), np.random.default_rng(4)
    took = []
    for number in range(MANY):
        at = np.arange(number * PER_QUERY, (number + 1) * PER_QUERY)
        pairs = pl.DataFrame(
            {
                "query_hash": pl.Series(hashes_of(at // 7).to_pylist(), dtype=pl.Binary),
                "doc_hash": pl.Series(hashes_of(at).to_pylist(), dtype=pl.Binary),
                "score": rng.normal(size=PER_QUERY).astype(np.float32),
            }
        )
        began = time.perf_counter()
        store.add(pairs, 0)
        took.append((time.perf_counter() - began) * 1e3)
    first, last = (sorted(part)[len(part) // 2] for part in (took[:SOME], took[-SOME:]))
    return {
        f"a commit, ms: median of the first {SOME}": first,
        f"a commit, ms: median of the last {SOME} of {MANY}": last,
        f"the dearest of {MANY} commits, which compacts, ms": max(took),
        f"{MANY} commits, s": sum(took) / 1e3,
    }


def documents(folder: Path, rows: int) -> dict[str, Any]:
    """Seconds of merging documents into a quarter and into all of `rows`, of their digest."""
    database = Database(str(folder / "documents.lancedb"))
    found: dict[str, Any] = {}
    for stored in (rows // 4, rows):
        held = database.open("documents")
        have = 0 if held is None else held.count_rows()
        made = made_documents(have, stored)
        database.ensure("documents", made.schema).add(made)
        database.optimize("documents")
        fresh = made_documents(stored, stored + MERGED)
        with timed(found, f"merge {MERGED:,} documents into {stored:,}, s", 10**6):
            database.merge("documents", fresh, fresh.schema)
    corpus = Corpus("documents", int(database.need("documents").version), True)
    before = peak()
    with timed(found, "digest of documents, s per million", rows):
        content_digest(database, corpus, {})
    found["digest of documents, peak bytes per row"] = (peak() - before) / rows
    return found


def made_documents(start: int, stop: int) -> pa.Table:
    """Documents of a short text and a narrow vector, numbered."""
    numbers = np.arange(start, stop)
    rng = np.random.default_rng(start)
    vectors = rng.normal(size=(len(numbers), 8)).astype(np.float32)
    columns = [
        pa.array([f"document-{i:09d}" for i in numbers]),
        pa.array(["a title"] * len(numbers)),
        pa.array([f"text of document {i}" for i in numbers]),
        hashes_of(numbers + 5),
        hashes_of(numbers + 9),
        pa.FixedSizeListArray.from_arrays(vectors.ravel(), 8),
    ]
    names = ["doc_id", "title", "text", "row_hash", "text_hash", "vector"]
    fields = [DOCUMENTS.field(n) if n in DOCUMENTS.names else None for n in names]
    made = [
        pa.field(n, c.type, nullable=False) if f is None else f
        for n, c, f in zip(names, columns, fields, strict=True)
    ]
    return pa.table(columns, schema=pa.schema(made))


def rank(candidates: pa.Table, scores: pl.DataFrame, found: dict[str, Any]) -> pa.Table:
    """Rank every query's candidates as publishing does, a chunk of 1,000 queries at a time."""
    parts = []
    step = 1000 * PER_QUERY
    with timed(found, "rank and publish, s per million", candidates.num_rows):
        for start in range(0, candidates.num_rows, step):
            ranked = rank_results(
                candidates.slice(start, step),
                scores[start : start + step].unique(["query_hash", "doc_hash"]).to_arrow(),
                query_types=("vector", "fts", "hybrid"),
                limit=PER_QUERY,
                top_k=None,
                return_score="all",
                activation="identity",
            )
            parts.append(ranked)
    return pa.concat_tables(parts)


def requests(folder: Path) -> dict[str, Any]:
    """Requests to the object store per chunk of queries, and of a whole job with one chunk."""
    import logging

    from tests.support import tiny
    from tests.support.object_store import BUCKET, emulator
    from tests.support.walk import walk_file

    model = tiny.tiny_cross_encoder(folder / "model")
    seen: Counter[str] = Counter()

    class Count(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.update(re.findall(r"\b(GET|PUT|HEAD|POST|DELETE) /", record.getMessage())[:1])

    counts = {}
    with emulator() as store:
        os.environ.update(store.environment)
        log = logging.getLogger("werkzeug")
        log.handlers, log.propagate = [Count()], False
        log.setLevel(logging.INFO)
        for chunks in CHUNKS:
            made = folder / f"chunks{chunks}"
            made.mkdir()
            rng = np.random.default_rng(3)
            asked = [tiny.sentence(rng, 1, 5) for _ in range(4 * chunks)]
            tiny.write_jsonl(made / "documents.jsonl", tiny.documents(40))
            tiny.write_jsonl(made / "queries.jsonl", tiny.queries(asked))
            config = tiny.write_config(
                made, model, database=f"s3://{BUCKET}/{made.name}", search__chunk_queries=4
            )
            seen.clear()
            walk_file(config)
            counts[chunks] = dict(seen)
    found: dict[str, Any] = {"requests of a job with one chunk": sum(counts[1].values())}
    for less, more in pairwise(CHUNKS):
        each = {k: (n - counts[less].get(k, 0)) / (more - less) for k, n in counts[more].items()}
        found[f"requests per chunk, from {less} to {more}"] = {k: round(v) for k, v in each.items()}
    return found


@contextmanager
def timed(found: dict[str, Any], what: str, rows: int) -> Iterator[None]:
    """Add seconds per million rows, CPU and by the clock."""
    clock, cpu = time.perf_counter(), time.process_time()
    yield
    found[f"{what} (CPU)"] = (time.process_time() - cpu) * 1e6 / rows
    found[f"{what} (clock)"] = (time.perf_counter() - clock) * 1e6 / rows


def peak() -> int:
    """The most bytes that this process has had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def bytes_of(database: Database, name: str) -> int:
    """Bytes of the data files that the table's newest version uses."""
    return int(database.need(name).stats()["total_bytes"])


if __name__ == "__main__":
    main()
