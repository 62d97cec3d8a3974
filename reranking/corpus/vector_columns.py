"""Vector columns: one per encoder, each marked with its encoder's fingerprint.

A managed table begins with the column `vector`. Another encoder gets `vector_<encoder8>` beside it,
so that old and new runs search the same documents. upkeep/columns.py knows which are in use.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from configs.schema import Documents
from reranking.corpus.corpus import Corpus, content_digest
from reranking.corpus.indexes import bring_indexes_up_to_date
from reranking.corpus.ingest import ENCODER_KEY, READY, Encoder
from reranking.errors import InputError, MissingResource, RuntimeFailure
from reranking.progress import Progress, silent
from reranking.schemas import DOCUMENTS
from reranking.store import Database

log = logging.getLogger(__name__)

FIRST_COLUMN = "vector"
_STEP = 512  # texts encoded between two looks at the clock


@dataclass(frozen=True)
class Encoded:
    """A complete vector column; `encoded` counts the rows that had no vector of it yet."""

    column: str
    encoded: int
    version: int


def vector_columns(database: Database, table: str, version: int | None = None) -> dict[str, str]:
    """The vector columns of a table with the encoder fingerprint each is marked with."""
    opened = database.open(table, version)
    fields = [] if opened is None else [f for f in opened.schema if _is_vector(f)]
    return {f.name: f.metadata[ENCODER_KEY].decode() for f in fields}


def _is_vector(field: pa.Field) -> bool:
    """Whether we made the column; one that somebody added to the table has no mark."""
    return ENCODER_KEY in (field.metadata or {})


def encoder_column(database: Database, table: str, fingerprint: str) -> str | None:
    """The column with an encoder's vectors, None where the table has none."""
    marks = vector_columns(database, table)
    return next((name for name, mark in marks.items() if mark == fingerprint), None)


def need_complete(database: Database, corpus: Corpus) -> None:
    """Raise InputError where documents lack a vector: vector search would not see them.

    Only a table with several vector columns can have such rows.
    """
    if not corpus.managed or len(vector_columns(database, corpus.table)) < 2:
        return
    columns = ["doc_id", corpus.vector]
    batches = database.stream(corpus.table, columns=columns, version=corpus.version)
    lacking = sum(batch.column(corpus.vector).null_count for batch in batches)
    if lacking:
        raise InputError(
            f"{lacking} documents of table {corpus.table!r} have no vector in column "
            f"{corpus.vector!r}: they were ingested for another encoder. Encode them with "
            "`rescore reevaluate CONFIG`."
        )


def add_vectors(
    database: Database,
    documents: Documents,
    encoder: Encoder,
    *,
    commit_seconds: float,
    metric: str = "cosine",
    progress: Progress = silent,
) -> Encoded:
    """Encode the documents that have no vector of this encoder, in a column of its own.

    Texts stay as they are. Vectors are committed every `commit_seconds`, and a killed call goes on
    where its last commit stopped; `ready` moves once every row has a vector and is indexed. Other
    writers of the table must wait: raises RuntimeFailure where one did not.
    """
    table = documents.table
    _refuse_unfinished_ingest(database, table)
    column = encoder_column(database, table, encoder.fingerprint)
    if column is None:
        column = _add_column(database, table, encoder)
    encoded = _encode_missing(database, table, column, encoder, commit_seconds, progress)
    bring_indexes_up_to_date(database, documents, column=column, metric=metric)
    if encoded and sum(len(block) for block in _lacking(database, table, column)):
        raise RuntimeFailure(
            f"table {table!r} was written by somebody else while it was encoded: start the command "
            "again, it goes on where it stopped"
        )
    version = int(database.need(table).version)
    if database.tagged(table, READY) != version:
        database.tag(table, READY, version)
    return Encoded(column, encoded, version)


def _refuse_unfinished_ingest(database: Database, table: str) -> None:
    """`ready` is about to move to the newest version: its rows must be those of a whole ingest."""
    ready = database.tagged(table, READY)
    if ready is None:
        raise MissingResource(
            f"table {table!r} has no completed ingest: run `rescore ingest` first"
        )
    newest = int(database.need(table).version)
    if newest == ready:
        return
    digests = {content_digest(database, Corpus(table, v, True), {}) for v in (ready, newest)}
    if len(digests) > 1:
        raise InputError(
            f"table {table!r} has rows of an ingest that did not finish: run `rescore ingest` with "
            "the encoder in use first"
        )


def _add_column(database: Database, table: str, encoder: Encoder) -> str:
    """An empty column for the encoder; ingests for one encoder may then leave out the others'."""
    name = f"{FIRST_COLUMN}_{encoder.fingerprint[:8]}"
    opened = database.need(table)
    needed = [f.name for f in opened.schema if _is_vector(f) and not f.nullable]
    if needed:
        opened.alter_columns(*({"path": column, "nullable": True} for column in needed))
    kind = pa.list_(pa.float32(), encoder.dimension)
    mark = {ENCODER_KEY: encoder.fingerprint.encode()}
    database.add_columns(table, [pa.field(name, kind, nullable=True, metadata=mark)])
    log.info("table %s: column %s for encoder %s", table, name, encoder.fingerprint[:8])
    return name


def _encode_missing(
    database: Database,
    table: str,
    column: str,
    encoder: Encoder,
    commit_seconds: float,
    progress: Progress,
) -> int:
    schema = pa.schema([DOCUMENTS.field("doc_id"), database.need(table).schema.field(column)])
    total = database.need(table).count_rows()
    done = 0
    for block in _lacking(database, table, column):
        waiting: list[tuple[list[str], np.ndarray]] = []
        last_commit = time.monotonic()
        try:
            for start in range(0, len(block), _STEP):
                part = block[start : start + _STEP]
                vectors = encoder.encode_documents([text for _, text in part])
                waiting.append(([doc_id for doc_id, _ in part], vectors))
                if time.monotonic() - last_commit >= commit_seconds:
                    _commit(database, table, schema, waiting)
                    last_commit = time.monotonic()
                done += len(part)
                progress("encode", done, total)
        finally:
            _commit(database, table, schema, waiting)
    return done


def _lacking(database: Database, table: str, column: str) -> Iterator[list[tuple[str, str]]]:
    """(id, text) of the rows without a vector in the column, block by block, longest first."""
    for batch in database.stream(table, columns=["doc_id", "text", column]):
        empty = batch.filter(batch.column(column).is_null())
        if empty.num_rows:
            pairs = zip(
                empty.column("doc_id").to_pylist(), empty.column("text").to_pylist(), strict=True
            )
            yield sorted(pairs, key=lambda pair: len(pair[1]), reverse=True)


def _commit(
    database: Database,
    table: str,
    schema: pa.Schema,
    waiting: list[tuple[list[str], np.ndarray]],
) -> None:
    """Commit the vectors that wait, and let go of them."""
    if not waiting:
        return
    ids = [doc_id for part, _ in waiting for doc_id in part]
    vectors = np.concatenate([v for _, v in waiting]).astype(np.float32)
    waiting.clear()
    if not np.isfinite(vectors).all():
        bad = ids[int(np.argmin(np.isfinite(vectors).all(axis=1)))]
        raise InputError(f"the encoder gave a vector that is not finite for document {bad!r}")
    flat = pa.array(np.ascontiguousarray(vectors).ravel())
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    rows = pa.table([pa.array(ids, pa.string()), column], names=schema.names)
    database.merge(table, rows, schema, insert=False)
