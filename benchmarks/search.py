"""Search beside a loop over `table.search(...)` on the same table, and against its hits.

    python -m benchmarks.search --data ../shared/data --documents 20000 100000

Documents are pieces of BEIR texts under `--data`, with vectors of random directions per word. A
round does both sides with `--queries` queries; the loop is sampled (`--sampled` queries) and
scaled. Ratios are taken within a round; their medians over `--rounds` are printed, by the clock and
by CPU time. What full-text search costs by the words of a query:

    python -m benchmarks.search --data ../shared/data --legs fts --words 2 6 12
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import polars as pl
import pyarrow as pa
from lancedb.index import FTS
from lancedb.query import MatchQuery
from rich.console import Console
from rich.table import Table

from benchmarks.pipeline import Took
from benchmarks.texts import WIDTH, Texts, beir, mixed, vectors
from configs.schema import Search
from reranking.arrow import frame
from reranking.corpus.corpus import Corpus
from reranking.fingerprints import text_hash
from reranking.runs.search import search_chunk
from reranking.store import Database

TYPES: dict[str, tuple[str, ...]] = {
    "vector": ("vector",),
    "fts": ("fts",),
    "vector, fts and hybrid": ("vector", "fts", "hybrid"),
}
ASKED = {"vector": 40.0, "fts": 1.9, "vector, fts and hybrid": 30.0}  # from 100,000 documents


def main() -> None:
    """Measure each size and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder of BEIR folders")
    parser.add_argument("--texts", nargs="+", default=["scifact", "tldr"])
    parser.add_argument("--documents", type=int, nargs="+", default=[20_000, 100_000])
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--sampled", type=int, default=40)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--legs", nargs="+", default=list(TYPES), choices=list(TYPES))
    parser.add_argument("--words", type=int, nargs="+", default=[0], help="of a query; 0: all")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [row for count in options.documents for row in measured(count, options)]
    if options.json:
        print(json.dumps(rows))
        return
    table = Table(
        "documents", "legs", "words", "queries/s", "loop", "clock", "CPU", "asked", "equal hits"
    )
    for row in rows:
        table.add_row(*(f"{v:,.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console().print(table)


def measured(count: int, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The figures of one size."""
    known = [beir(options.data / name, 5_000) for name in options.texts]
    texts = mixed(known, count)
    with tempfile.TemporaryDirectory() as folder:
        corpus = write(Path(folder), texts)
        database = Database(folder)
        table = lancedb.connect(folder).open_table("documents")
        for name, words in product(options.legs, options.words):
            settings = Search(query_types=TYPES[name], limit=options.limit)
            asked = replace(texts, queries=[cut(q, words) for q in texts.queries])
            rounds = [
                one_round(database, corpus, table, settings, asked, turn, options)
                for turn in range(options.rounds)
            ]
            ours, theirs, equal = zip(*rounds, strict=True)
            ratios = [t.over(o) for t, o in zip(theirs, ours, strict=True)]
            yield {
                "documents": f"{count:,}",
                "legs": name,
                "words": words or statistics.mean(len(q.split()) for q in asked.queries),
                "queries/s": 1 / statistics.median(o.wall for o in ours),
                "loop": 1 / statistics.median(t.wall for t in theirs),
                "clock": statistics.median(clock for clock, _ in ratios),
                "CPU": statistics.median(cpu for _, cpu in ratios),
                "asked": ASKED[name] if count >= 100_000 else "",
                "equal hits": min(equal),
            }


def cut(text: str, words: int) -> str:
    """The text's first words, all of them for 0."""
    return " ".join(text.split()[:words]) if words else text


def one_round(
    database: Database,
    corpus: Corpus,
    table: Any,
    settings: Search,
    texts: Texts,
    turn: int,
    options: argparse.Namespace,
) -> tuple[Took, Took, float]:
    """What a query took here and in the loop, whichever is first in turn, and the hits' share."""
    asked = queries_of(texts.asked(turn * options.queries, options.queries))
    given = vectors(asked["text"].to_pylist())
    few = asked.slice(0, options.sampled)
    took = {"ours": Took(), "theirs": Took()}
    for side in sorted(took, reverse=turn % 2 == 1):
        with took[side]:
            if side == "ours":
                ours = search_chunk(database, corpus, asked, given, settings)
            else:
                theirs = loop(table, few, given, settings)
    share = agreement(ours, theirs, settings.query_types)
    each = [
        Took(t.wall / n, t.cpu / n)
        for t, n in zip(took.values(), (asked.num_rows, few.num_rows), strict=True)
    ]
    return each[0], each[1], share


def write(folder: Path, texts: Texts) -> Corpus:
    """The documents with an FTS index, in parts, as an ingest leaves them."""
    parts = [texts.documents[i : i + 20_000] for i in range(0, len(texts.documents), 20_000)]
    schema = pa.schema(
        {
            "doc_id": pa.string(),
            "text": pa.string(),
            "text_hash": pa.binary(16),
            "vector": pa.list_(pa.float32(), WIDTH),
        }
    )

    def batches() -> Iterator[pa.RecordBatch]:
        for number, part in enumerate(parts):
            flat = pa.array(vectors(part).reshape(-1))
            yield pa.record_batch(
                [
                    pa.array([f"d{number * 20_000 + i:07d}" for i in range(len(part))]),
                    pa.array(part),
                    pa.array([text_hash(t) for t in part], pa.binary(16)),
                    pa.FixedSizeListArray.from_arrays(flat, WIDTH),
                ],
                schema=schema,
            )

    table = lancedb.connect(folder).create_table(
        "documents", pa.RecordBatchReader.from_batches(schema, batches())
    )
    table.create_index("text", config=FTS())
    return Corpus("documents", table.version, True, hash_column="text_hash")


def queries_of(texts: list[str]) -> pa.Table:
    """Queries as a chunk of a run has them."""
    hashes = pa.array([text_hash(t) for t in texts], pa.binary(16))
    ids = [f"q{i:05d}" for i in range(len(texts))]
    return pa.table({"query_id": ids, "text": texts, "text_hash": hashes})


def loop(
    table: Any, queries: pa.Table, asked: np.ndarray, settings: Search
) -> dict[str, pl.DataFrame]:
    """LanceDB's answers, query by query: what each leg finds, and the hybrid search's own."""
    texts = queries["text"].to_pylist()
    found: dict[str, list[pa.Table]] = {t: [] for t in settings.query_types}
    for text, vector in zip(texts, asked[: len(texts)], strict=True):
        for kind, answers in found.items():
            if kind == "vector":
                query = table.search(vector, vector_column_name="vector")
            elif kind == "fts":
                query = table.search(MatchQuery(text, "text"), query_type="fts")
            else:
                query = table.search(query_type="hybrid", vector_column_name="vector")
                query = query.vector(vector).text(MatchQuery(text, "text"))
            if kind != "fts":
                query = query.distance_type("cosine")
            scores = {"vector": ["_distance"], "fts": ["_score"]}.get(kind, [])
            query = query.limit(settings.limit)
            answers.append((query.select(["doc_id", *scores]) if scores else query).to_arrow())
    return {kind: ids_of(answers) for kind, answers in found.items()}


def ids_of(answers: list[pa.Table]) -> pl.DataFrame:
    """One row per query and document."""
    at = np.repeat(np.arange(len(answers)), [a.num_rows for a in answers])
    ids = pl.concat([pl.Series(a["doc_id"].to_pylist(), dtype=pl.String) for a in answers])
    return pl.DataFrame({"query_id": [f"q{i:05d}" for i in at], "doc_id": ids})


def agreement(ours: pa.Table, theirs: dict[str, pl.DataFrame], types: tuple[str, ...]) -> float:
    """The share of the loop's hits that are ours too, over its legs (equal values end by id)."""
    rows, shares = frame(ours), []
    for leg in (t for t in types if t != "hybrid"):
        mine = rows.filter(pl.col(f"{leg}_rank").is_not_null())
        both = theirs[leg].join(mine, on=["query_id", "doc_id"], how="semi")
        shares.append(len(both) / max(len(theirs[leg]), 1))
    return min(shares)


if __name__ == "__main__":
    started = time.perf_counter()
    main()
    print(f"{time.perf_counter() - started:,.0f} s")
