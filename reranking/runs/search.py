"""One chunk of queries through the vector and the FTS leg, to candidates.

Each leg takes `limit` documents per query, as LanceDB's own search does. Documents of equal
distance or score are taken in order of their ids, so that the same content always gives the same
candidates, however its rows are stored: exact vector search knows all distances, the FTS leg asks
for a few more hits than it needs and, where a tie reaches beyond them, asks again for more.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import lancedb
import numpy as np
import polars as pl
import pyarrow as pa
from lancedb.expr import Expr
from lancedb.query import MatchQuery
from numpy.typing import NDArray

from configs.schema import Search
from reranking.arrow import frame
from reranking.corpus.corpus import Corpus, hashes_of, string_ids, vector_width
from reranking.corpus.fields import type_of
from reranking.corpus.indexes import vector_index
from reranking.corpus.left_out import search_filter
from reranking.errors import InputError
from reranking.reading import batches, taken
from reranking.runs.exact import ROWS, Nearest, product_on, vectors_of
from reranking.store import Database

_SPARE = 16  # hits asked for beyond the limit, to see where a tie ends
_MOST = 10_000  # a longer tie is cut where LanceDB cuts it
_VECTORS_PER_CALL = 200
_FTS_IN_FLIGHT = 4 * (os.cpu_count() or 1)


class QueryEncoder(Protocol):
    """Query texts in, (n, d) float32 vectors out."""

    def encode_queries(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


def search_chunk(
    database: Database,
    corpus: Corpus,
    queries: pa.Table,
    vectors: NDArray[np.float32] | None,
    settings: Search,
    device: str = "cpu",
) -> pa.Table:
    """The candidates of the queries (query_id, text, text_hash), one row per query and document.

    device: where exact vector search multiplies. Columns: query_id, doc_id, query_hash, doc_hash,
    vector_rank, _distance, fts_rank, _score.
    """
    legs = {}
    if "vector" in settings.legs:
        if vectors is None:
            raise InputError("vector search needs query vectors: name documents.encoder")
        legs["vector"] = vector_hits(database, corpus, vectors, settings, device)
    if "fts" in settings.legs:
        texts = queries.column("text").to_pylist()
        legs["fts"] = _fts_leg(database, corpus, texts, settings)
    return _with_queries(join_legs(legs), queries)


def query_vectors(
    queries: pa.Table, encoder: QueryEncoder | None, width: int
) -> NDArray[np.float32]:
    """The (n, width) vectors of the queries: their own where they bring them, else encoded.

    Raises InputError for a query without a vector if no encoder is set, for another width,
    and for numbers that are not finite.
    """
    given = queries.column("vector").to_pylist() if "vector" in queries.column_names else []
    missing = [i for i in range(queries.num_rows) if not given or given[i] is None]
    ids = queries.column("query_id").to_pylist()
    if missing and encoder is None:
        raise InputError(
            f"query {ids[missing[0]]!r} has no vector and the config names no documents.encoder"
        )
    vectors = np.zeros((queries.num_rows, width), np.float32)
    for i, vector in enumerate(given):
        if vector is not None:
            _check_width(len(vector), width, f"the vector of query {ids[i]!r}")
            vectors[i] = vector
    if missing and encoder is not None:
        texts = queries.column("text").to_pylist()
        encoded = encoder.encode_queries([texts[i] for i in missing])
        _check_width(encoded.shape[1], width, "the encoder's vector")
        vectors[missing] = encoded
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(bad):
        raise InputError(f"the vector of query {ids[bad[0]]!r} is not finite")
    return vectors


def _check_width(given: int, expected: int, what: str) -> None:
    if given != expected:
        raise InputError(f"{what} has {given} numbers, the documents' vectors have {expected}")


Ask = Callable[[list[int], int], pl.DataFrame]
"""Given rows of the chunk and a limit, the hits of those queries."""


def vector_hits(
    database: Database,
    corpus: Corpus,
    vectors: NDArray[np.float32],
    settings: Search,
    device: str = "cpu",
) -> pl.DataFrame:
    """The vector leg's hits: query (row of `vectors`), doc_id, doc_hash, rank, _distance.

    By the column's ANN index where it has one, unless the settings bypass it.
    """
    table = corpus.opened_vectors(database)
    where = search_filter(corpus.database(database), corpus, settings.where, table.schema)
    if settings.bypass_vector_index or vector_index(table, corpus.vector) is None:
        return _nearest(table, corpus, vectors, settings, where, device)
    # An ANN index searches differently for every limit: asking for more would change the hits.
    answers = [
        _ask_index(table, corpus, vectors, rows, settings, where)
        for rows in np.array_split(np.arange(len(vectors)), -(-len(vectors) // _VECTORS_PER_CALL))
    ]
    return _cut(pl.concat(answers), "_distance", settings.limit, settings.limit)[0]


def _nearest(
    table: Any,
    corpus: Corpus,
    vectors: NDArray[np.float32],
    settings: Search,
    where: Expr | str | None,
    device: str,
) -> pl.DataFrame:
    """The exact hits of all vectors, in one pass over the table."""
    kind: Any = type_of(table.schema, corpus.vector)
    asked = vectors.astype(kind.value_type.to_pandas_dtype()).astype(np.float32)  # as LanceDB's
    nearest = Nearest(asked, settings.limit, settings.metric or "cosine", product_on(device))
    read = [*_columns(corpus), corpus.vector]
    for batch in batches(table, where, read, row_ids=False, rows=ROWS):
        block, rows = vectors_of(batch.column(corpus.vector))
        nearest.see(block, partial(_documents, batch.select(_columns(corpus)), corpus, rows))
    return nearest.hits()


def _fts_leg(
    database: Database, corpus: Corpus, texts: Sequence[str], settings: Search
) -> pl.DataFrame:
    table = corpus.opened(database)

    def ask(rows: list[int], limit: int) -> pl.DataFrame:
        hits = asyncio.run(_ask_texts(database, corpus, texts, rows, limit, settings))
        documents = _documents_of(table, corpus, hits["_rowid"].unique().to_list())
        return hits.join(documents, on="_rowid").drop("_rowid")

    return _settle(ask, len(texts), settings.limit)


def _settle(ask: Ask, queries: int, limit: int) -> pl.DataFrame:
    """The first `limit` hits of each query with their rank, ties at the limit cut by id."""
    wanted = limit + _SPARE
    hits = ask(list(range(queries)), wanted)
    kept, open_ties = _cut(hits, "_score", limit, wanted)
    while open_ties and wanted < _MOST:
        wanted *= 4
        hits = pl.concat([hits.filter(~pl.col("query").is_in(open_ties)), ask(open_ties, wanted)])
        kept, open_ties = _cut(hits, "_score", limit, wanted)
    return kept


def _ask_index(
    table: Any,
    corpus: Corpus,
    vectors: NDArray[np.float32],
    rows: NDArray[np.int64],
    settings: Search,
    where: Expr | str | None,
) -> pl.DataFrame:
    """The hits of the vectors in these rows by the column's ANN index."""
    query = table.search(vectors[rows], vector_column_name=corpus.vector).limit(settings.limit)
    query = query.distance_type(settings.metric or "cosine")
    if where is not None:
        query = query.where(where, prefilter=True)
    if settings.nprobes:
        query = query.nprobes(settings.nprobes)
    if settings.refine_factor:
        query = query.refine_factor(settings.refine_factor)
    if settings.ef:
        query = query.ef(settings.ef)
    hits = query.select([*_columns(corpus), "_distance"]).to_arrow()
    # One vector is no batch to LanceDB: its answer then has no query_index.
    at = hits["query_index"].to_numpy() if len(rows) > 1 else np.zeros(hits.num_rows, np.int64)
    return _hits(hits, corpus, rows[at], "_distance")


async def _ask_texts(
    database: Database,
    corpus: Corpus,
    texts: Sequence[str],
    rows: list[int],
    limit: int,
    settings: Search,
) -> pl.DataFrame:
    """The FTS hits of the texts in these rows: query, _rowid, _score.

    LanceDB answers one text a call, so many are asked at once. It reads columns anew for each hit
    of each query, which takes as long as the search: their ids are read once for all.
    """
    connection = await lancedb.connect_async(corpus.database(database).place)
    table = await connection.open_table(corpus.table)
    await table.checkout(corpus.version)
    schema = await table.schema()
    condition = search_filter(corpus.database(database), corpus, settings.where, schema)
    places = asyncio.Semaphore(_FTS_IN_FLIGHT)

    async def one(row: int) -> pa.Table:
        async with places:
            # MatchQuery: a text in double quotes would otherwise be a phrase query and raise.
            query = table.query().nearest_to_text(MatchQuery(texts[row], corpus.text))
            if condition is not None:
                query = query.where(condition)
            return await query.limit(limit).with_row_id().select(["_score"]).to_arrow()

    answers = await asyncio.gather(*(one(row) for row in rows))
    at = np.repeat(np.asarray(rows, np.int64), [a.num_rows for a in answers])
    found = pa.concat_tables(answers).select(["_rowid", "_score"])
    return frame(found).with_columns(pl.col("_score").cast(pl.Float32), query=pl.Series(at))


def _documents_of(table: Any, corpus: Corpus, row_ids: list[int]) -> pl.DataFrame:
    """The id and text hash of the rows with these `_rowid`s."""
    parts = [pl.DataFrame(schema={"_rowid": pl.UInt64, "doc_id": pl.String, "doc_hash": pl.Binary})]
    for read in taken(table, row_ids, _columns(corpus), rows=ROWS):
        everything = np.arange(read.num_rows)
        documents = _documents(read, corpus, everything, everything)
        parts.append(documents.select(pl.Series("_rowid", read["_rowid"]), "doc_id", "doc_hash"))
    return pl.concat(parts)


_NO_HITS = pl.DataFrame(
    schema={"query": pl.Int64, "doc_id": pl.String, "doc_hash": pl.Binary, "rank": pl.Int32}
)


def _columns(corpus: Corpus) -> list[str]:
    return list(dict.fromkeys([corpus.id, corpus.hash_column or corpus.scored]))


def _hits(answer: pa.Table, corpus: Corpus, rows: NDArray[np.int64], value: str) -> pl.DataFrame:
    everything = np.arange(answer.num_rows)
    documents = _documents(answer, corpus, everything, everything)
    return documents.with_columns(
        query=pl.Series(rows), **{value: pl.Series(answer[value].to_numpy(), dtype=pl.Float32)}
    )


def _documents(
    read: pa.Table | pa.RecordBatch, corpus: Corpus, rows: NDArray[np.int64], at: NDArray[np.int64]
) -> pl.DataFrame:
    """The id and text hash of those of the `rows` that are at these positions."""
    taken = read.take(pa.array(rows[at]))
    hashes = hashes_of(taken.column(corpus.hash_column or corpus.scored), corpus)
    return pl.DataFrame(
        {
            "doc_id": pl.Series(string_ids(taken.column(corpus.id), corpus), dtype=pl.String),
            "doc_hash": pl.Series(hashes, dtype=pl.Binary),
        }
    )


def _cut(hits: pl.DataFrame, value: str, limit: int, asked: int) -> tuple[pl.DataFrame, list[int]]:
    """The first `limit` hits of each query with their rank, and the queries whose tie is open.

    A tie is open where the last of `asked` hits still has the value at the limit: more documents
    of that value may exist, and the smallest ids among them are not known yet.
    """
    best_first = [False, value == "_score", False]
    ordered = hits.sort("query", value, "doc_id", descending=best_first)
    ranked = ordered.with_columns(
        rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("query"),
        asked=pl.len().over("query"),
    )
    last = pl.col(value).last().over("query")
    at_limit = pl.col(value).get(limit - 1, null_on_oob=True).over("query")
    open_ties = ranked.filter((pl.col("asked") >= asked) & (last == at_limit))["query"].unique()
    kept = ranked.filter(pl.col("rank") <= limit).drop("asked")
    return kept, sorted(open_ties.to_list())


def join_legs(legs: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """The legs' hits side by side: one row per (query, document), null where a leg has no hit."""
    empty = _NO_HITS
    vector = legs.get("vector", empty.with_columns(_distance=pl.lit(0.0, pl.Float32)))
    fts = legs.get("fts", empty.with_columns(_score=pl.lit(0.0, pl.Float32)))
    joined = vector.rename({"rank": "vector_rank"}).join(
        fts.rename({"rank": "fts_rank"}),
        on=["query", "doc_id", "doc_hash"],
        how="full",
        coalesce=True,
    )
    return joined.sort("query", "doc_id")


def _with_queries(joined: pl.DataFrame, queries: pa.Table) -> pa.Table:
    at = joined["query"].to_numpy()
    columns = joined.select(
        "doc_id", "doc_hash", "vector_rank", "_distance", "fts_rank", "_score"
    ).to_arrow()
    return (
        columns.append_column("query_id", queries.column("query_id").take(pa.array(at)))
        .append_column("query_hash", queries.column("text_hash").take(pa.array(at)))
        .combine_chunks()
    )


def check_vectors(database: Database, corpus: Corpus) -> int:
    """The width of the corpus' vectors."""
    return vector_width(corpus.opened_vectors(database), corpus)
