"""Rows of somebody else's table that no search may find: without text, or older than their twin.

The table is never written, so they are left out of every search by a filter, and of what is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
from lancedb.expr import Expr

from reranking.arrow import frame
from reranking.corpus.filters import where_condition, where_sql
from reranking.corpus.sql import has_text_sql, not_rows_sql
from reranking.errors import InputError
from reranking.store import Database

if TYPE_CHECKING:
    from reranking.corpus.corpus import Corpus

_MOST_OLDER = 100_000  # rows in one filter


def search_filter(
    home: Database, corpus: Corpus, where: Mapping[str, Any], schema: pa.Schema
) -> Expr | str | None:
    """The condition of `search.where`, and that no row to be left out is found."""
    parts = []
    if corpus.skips_empty:
        parts.append(has_text_sql(corpus.scored))
    if len(older := older_rows(home, corpus)):
        parts.append(not_rows_sql(older))
    if not parts:
        return where_condition(where, schema)
    if where:
        parts.insert(0, where_sql(where, schema))
    return " AND ".join(f"({part})" for part in parts)


def kept_rows(home: Database, corpus: Corpus, batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch without the rows that are left out; without `_rowid`.

    It has the column `scored` if the corpus skips empty texts, and `_rowid` if it has older rows.
    """
    keep = pl.Series([True] * batch.num_rows, dtype=pl.Boolean)
    if corpus.skips_empty and corpus.scored in batch.schema.names:
        texts = batch.column(corpus.scored).to_pylist()
        keep &= pl.Series([bool((text or "").strip()) for text in texts], dtype=pl.Boolean)
    if corpus.newest_by is not None:
        rows = pl.Series(batch.column("_rowid").to_numpy())
        keep &= ~rows.is_in(pl.Series(older_rows(home, corpus), dtype=pl.UInt64).implode())
        batch = batch.drop_columns(["_rowid"])
    return batch if keep.all() else batch.filter(pa.array(keep.to_list(), pa.bool_()))


def older_rows(home: Database, corpus: Corpus) -> Sequence[int]:
    """The addresses of rows whose id stands in a newer row as well.

    Raises InputError where it cannot be said which row is the newest.
    """
    if corpus.newest_by is None:
        return ()
    return _older_rows(home.uri, corpus.table, corpus.version, corpus.id, corpus.newest_by)


@lru_cache(maxsize=8)
def _older_rows(
    uri: str, table: str, version: int, identifier: str, newest_by: str
) -> tuple[int, ...]:
    parts = [
        frame(batch).select("_rowid", id=pl.col(identifier).cast(pl.String), by=pl.col(newest_by))
        for batch in Database(uri).stream(
            table,
            columns=list(dict.fromkeys([identifier, newest_by])),
            version=version,
            row_ids=True,
        )
    ]
    if not parts:
        return ()
    rows = pl.concat(parts).filter(pl.col("id").is_duplicated())
    newest = pl.col("by") == pl.col("by").max().over("id")
    rows = rows.with_columns(newest=newest.fill_null(False))
    counts = rows.group_by("id").agg(pl.col("newest").sum())
    unclear = counts.filter(pl.col("newest") != 1)["id"].sort()
    if len(unclear):
        raise InputError(
            f"{len(unclear):,} ids of table {table!r} stand more than once, and column "
            f"{newest_by!r} does not say which row is the newest (several have its highest value, "
            f"or none has one), e.g. {', '.join(map(repr, unclear[:3].to_list()))}. Choose another "
            "column for documents.on_duplicate.newest_by"
        )
    older = rows.filter(~pl.col("newest"))["_rowid"].to_list()
    if len(older) > _MOST_OLDER:
        raise InputError(
            f"{len(older):,} rows of table {table!r} are older than another row of their id; "
            f"{_MOST_OLDER:,} is the most that a filter can leave out. Name a unique column as "
            "documents.id, or have the table's owner delete them"
        )
    return tuple(older)
