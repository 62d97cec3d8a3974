"""Somebody else's ranking instead of a search: its documents become the candidates.

A ranking has no legs of ours. Its ranks are stored as the leg that the query type names (`fts`:
the FTS leg, else the vector leg), its scores only as `_score` of an `fts` ranking, for they are
no distances. The first stage then ranks exactly as the ranking did.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import polars as pl
import pyarrow as pa

from reranking.arrow import frame
from reranking.corpus.corpus import Corpus, columns_of, hashes_of, string_ids
from reranking.corpus.queries import QuerySet, read_queries
from reranking.corpus.rejects import write_rejects
from reranking.errors import InputError
from reranking.fingerprints import ContentDigest, canonical
from reranking.runs.candidates import searched, store_chunk
from reranking.runs.run import Run
from reranking.sources.rows import Reject, Row
from reranking.store import Database


@dataclass(frozen=True)
class GivenRanking:
    """query_id, doc_id, doc_hash, rank (from 1), score; the rows left out; what names it."""

    table: pa.Table
    rejects: tuple[Reject, ...]
    content: str


def read_given_ranking(
    database: Database,
    rows: Iterator[Row | Reject],
    corpus: Corpus,
    queries: QuerySet,
    limit: int,
) -> GivenRanking:
    """The first `limit` documents per query of a ranking (query_id, doc_id, score, rank).

    Ordered by score if it has one (equal scores by id), else by rank, else as the rows come.
    Rows of unknown queries or documents, and worse places of a document named twice, are rejects.
    Raises InputError where nothing is left.
    """
    rejects: list[Reject] = []
    given = _given(rows, rejects)
    known = read_queries(database, queries).select(["query_id"])
    kept = _semi(given, frame(known), "query_id", "ranks a query not in the set", rejects)
    ids = kept["doc_id"].unique().sort().to_list()
    kept = _semi(
        kept, _hashes(database, corpus, ids), "doc_id", "document not in the corpus", rejects
    )
    kept = _best_first(kept)
    once = kept.unique(["query_id", "doc_id"], keep="first", maintain_order=True)
    for row in kept.join(once.select("number"), on="number", how="anti").iter_rows(named=True):
        rejects.append(_reject(row, "document ranked twice for the query"))
    if not len(once):
        reason = f"; {len(rejects)} rows rejected, e.g. {rejects[0].reason}" if rejects else ""
        raise InputError(f"the ranking has no usable rows{reason}")
    ranked = _ranked(once, limit)
    content = ContentDigest()
    content.add(canonical(list(r)).encode() for r in ranked.drop("doc_hash").iter_rows())
    return GivenRanking(ranked.to_arrow(), tuple(rejects), content.hex())


def _given(rows: Iterator[Row | Reject], rejects: list[Reject]) -> pl.DataFrame:
    good = []
    for row in rows:
        if isinstance(row, Reject):
            rejects.append(row)
        else:
            values = row.values
            score, rank = values.get("score"), values.get("rank")
            good.append((row.number, str(values["query_id"]), str(values["doc_id"]), score, rank))
    schema = {
        "number": pl.Int64,
        "query_id": pl.String,
        "doc_id": pl.String,
        "score": pl.Float64,
        "rank": pl.Int64,
    }
    return pl.DataFrame(good, schema=schema, orient="row")


def _semi(
    rows: pl.DataFrame, known: pl.DataFrame, key: str, reason: str, rejects: list[Reject]
) -> pl.DataFrame:
    """The rows whose key is known, with the other columns of `known`; the others are rejects."""
    for row in rows.join(known, on=key, how="anti").iter_rows(named=True):
        rejects.append(_reject(row, reason))
    return rows.join(known, on=key, how="inner", maintain_order="left")


def _reject(row: dict[str, object], reason: str) -> Reject:
    return Reject(int(str(row["number"])), f"{row['query_id']} {row['doc_id']}", reason, None)


def _hashes(database: Database, corpus: Corpus, ids: list[str]) -> pl.DataFrame:
    column = corpus.hash_column or corpus.scored
    found: dict[str, bytes] = {}
    for batch in columns_of(database, corpus, ids, [column]):
        names = string_ids(batch.column(corpus.id), corpus)
        found.update(zip(names, hashes_of(batch.column(column), corpus), strict=True))
    schema = {"doc_id": pl.String, "doc_hash": pl.Binary}
    return pl.DataFrame(list(found.items()), schema=schema, orient="row")


def _best_first(rows: pl.DataFrame) -> pl.DataFrame:
    tie = "doc_id" if rows["score"].count() else "number"
    return rows.sort(
        "query_id", "score", "rank", tie, descending=[False, True, False, False], nulls_last=True
    )


def _ranked(ordered: pl.DataFrame, limit: int) -> pl.DataFrame:
    ranks = pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("query_id")
    ranked = ordered.with_columns(rank=ranks).filter(pl.col("rank") <= limit)
    return ranked.select("query_id", "doc_id", "doc_hash", "rank", "score")


def store_given_ranking(run: Run, ranking: GivenRanking, source_fp: str) -> int:
    """Store the ranking as the run's candidates, as far as they are not; the number of rejects."""
    write_rejects(run.database, list(ranking.rejects), source_fp, datetime.now(UTC))
    done = searched(run)
    rows = frame(ranking.table)
    for chunk in run.chunks if not run.finished else []:
        if chunk not in done:
            queries = run.chunk_of_queries(chunk)
            hits = _as_candidates(rows, queries, run.search.query_types[0])
            store_chunk(run, chunk, queries, hits)
    return len(ranking.rejects)


def _as_candidates(rows: pl.DataFrame, queries: pa.Table, query_type: str) -> pa.Table:
    asked = frame(queries.select(["query_id", "text_hash"])).rename({"text_hash": "query_hash"})
    by_words = query_type == "fts"
    rank, score = pl.col("rank"), pl.col("score").cast(pl.Float32)
    none = pl.lit(None)
    return (
        rows.join(asked, on="query_id", how="inner")
        .select(
            "query_id",
            "doc_id",
            "query_hash",
            "doc_hash",
            vector_rank=none.cast(pl.Int32) if by_words else rank,
            _distance=none.cast(pl.Float32),
            fts_rank=rank if by_words else none.cast(pl.Int32),
            _score=score if by_words else none.cast(pl.Float32),
        )
        .to_arrow()
    )
