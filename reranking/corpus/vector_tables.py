"""Vectors beside a documents table: one table per encoder on trial, or switched away from.

`documents` keeps exactly one vector column, so that consumers search it without naming one. A trial
encodes into `<documents>_vectors_<encoder8>`, which carries the ids, the hashes of the texts, the
vectors and the columns that filters use; everything else is read from `documents`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from configs.documents import Documents
from reranking.arrow import frame
from reranking.corpus.corpus import Corpus, pin_managed
from reranking.corpus.fields import path_of
from reranking.corpus.indexes import bring_vector_index_up_to_date
from reranking.corpus.ingest import Encoder
from reranking.corpus.stored import ENCODER_KEY, READY
from reranking.errors import InputError, MissingResource
from reranking.progress import Progress, Status, silent
from reranking.schemas import VECTORS
from reranking.store import Database, one_of

log = logging.getLogger(__name__)

SUPPLIED = "supplied"  # the mark of vectors that came with the documents
_STEP = 512  # texts encoded between two looks at the clock
_KEY = ["doc_id", "text_hash"]


@dataclass(frozen=True)
class Encoded:
    """A complete table of vectors; `encoded` counts the documents that had none yet."""

    table: str
    encoded: int
    version: int


def vectors_name(table: str, fingerprint: str) -> str:
    """The name of the table that holds an encoder's vectors for a documents table."""
    return f"{table}_vectors_{fingerprint[:8]}"


def vector_tables(database: Database, table: str) -> dict[str, str]:
    """The tables of vectors beside a documents table, with each one's encoder fingerprint."""
    marks: dict[str, str] = {}
    for name in database.names():
        opened = database.open(name) if name.startswith(vectors_name(table, "")) else None
        if opened is not None and "vector" in opened.schema.names:
            mark = (opened.schema.field("vector").metadata or {}).get(ENCODER_KEY)
            if mark is not None and name == vectors_name(table, mark.decode()):
                marks[name] = mark.decode()
    return marks


def carried_columns(schema: pa.Schema, columns: Iterable[str]) -> list[str]:
    """The columns that a filter (or a reranker) reads beside ids, hashes and vectors."""
    paths = (path_of(schema, column) or [column] for column in columns)
    top = dict.fromkeys(path[0] for path in paths)
    return sorted(n for n in top if n in schema.names and n not in (*_KEY, "vector"))


def encode_beside(
    database: Database,
    documents: Documents,
    encoder: Encoder,
    columns: Iterable[str] = (),
    *,
    commit_seconds: float,
    metric: str = "cosine",
    progress: Progress = silent,
) -> Encoded:
    """Give every ingested document a vector of this encoder, in a table of its own.

    `columns` are those that filters use. `documents` is only read. Vectors are committed every
    `commit_seconds`, a killed call goes on where its last commit stopped, and the table's tag
    `ready` moves once every document has its vector.
    """
    corpus = pin_managed(database, documents.table)
    name = vectors_name(documents.table, encoder.fingerprint)
    schema = corpus.opened(database).schema
    carried = carried_columns(schema, columns)
    beside = _Beside(database, corpus, name, [schema.field(c) for c in carried])
    _refuse_other(database, name, encoder.fingerprint)
    if database.open(name) is not None:
        database.add_columns(name, beside.fields)
    wanted, stored = beside.wanted(), beside.stored()
    new = wanted.join(stored, on=_KEY, how="anti")["doc_id"]
    known = wanted.join(stored, on=_KEY, how="inner")
    changed = known.filter(pl.col("filters") != pl.col("filters_right"))["doc_id"]
    beside.encode(new, encoder, commit_seconds, progress)
    beside.update(changed)
    beside.delete(stored.join(wanted, on="doc_id", how="anti")["doc_id"].to_list())
    bring_vector_index_up_to_date(database, name, "vector", documents.vector_index, metric)
    version = int(database.need(name).version)
    if database.tagged(name, READY) != version:
        database.tag(name, READY, version)
    return Encoded(name, len(new), version)


def _refuse_other(database: Database, name: str, fingerprint: str) -> None:
    opened = database.open(name)
    if opened is None:
        return
    field = opened.schema.field("vector") if "vector" in opened.schema.names else None
    mark = None if field is None else (field.metadata or {}).get(ENCODER_KEY)
    if mark != fingerprint.encode():
        raise MissingResource(
            f"table {name!r} in {database.uri} was made by somebody else, and the vectors of the "
            "encoder on trial would be put there: rename that table"
        )


@dataclass(frozen=True)
class _Beside:
    """A table of vectors at work: `fields` are the carried columns."""

    database: Database
    corpus: Corpus
    name: str
    fields: Sequence[pa.Field]

    @property
    def carried(self) -> list[str]:
        return [f.name for f in self.fields]

    def wanted(self) -> pl.DataFrame:
        """The documents as they were last completely ingested."""
        return rows_of(self.database, self.corpus.table, self.corpus.version, self.carried)

    def stored(self) -> pl.DataFrame:
        """The documents that have a vector; the newest rows, of a killed call too."""
        return rows_of(self.database, self.name, None, self.carried)

    def schema(self, width: int, mark: str) -> pa.Schema:
        marks = {ENCODER_KEY: mark.encode()}
        vector = pa.field("vector", pa.list_(pa.float32(), width), nullable=False, metadata=marks)
        carried = [pa.field(f.name, f.type) for f in self.fields]
        return pa.schema([*VECTORS, vector, *carried])

    def encode(
        self, ids: pl.Series, encoder: Encoder, commit_seconds: float, progress: Progress
    ) -> None:
        """Encode the documents, block by block, longest first; what is done is committed."""
        schema = self.schema(encoder.dimension, encoder.fingerprint)
        if not len(ids):
            self.database.ensure(self.name, schema)
            return
        done = 0
        columns = list(dict.fromkeys([*_KEY, *self.carried, "text"]))
        for rows in self._documents(ids, columns):
            rows = rows.sort(pl.col("text").str.len_chars(), descending=True)
            waiting: list[tuple[pl.DataFrame, np.ndarray]] = []
            last_commit = time.monotonic()
            try:
                for start in range(0, len(rows), _STEP):
                    part = rows.slice(start, _STEP)
                    vectors = encoder.encode_documents(part["text"].to_list())
                    waiting.append((part.select(*_KEY, *self.carried), vectors))
                    if time.monotonic() - last_commit >= commit_seconds:
                        self._commit(waiting, schema)
                        last_commit = time.monotonic()
                    done += len(part)
                    progress(Status("encode", done, len(ids)))
            finally:
                self._commit(waiting, schema)

    def _documents(self, ids: pl.Series, columns: list[str]) -> Iterator[pl.DataFrame]:
        """Those of the documents, block by block."""
        own = self.corpus
        for batch in self.database.stream(own.table, columns=columns, version=own.version):
            rows = frame(batch).filter(pl.col("doc_id").is_in(ids.implode()))
            if len(rows):
                yield rows

    def _commit(self, waiting: list[tuple[pl.DataFrame, np.ndarray]], schema: pa.Schema) -> None:
        """Commit the vectors that wait, and let go of them."""
        if not waiting:
            return
        rows = pl.concat([part for part, _ in waiting])
        vectors = np.concatenate([v for _, v in waiting]).astype(np.float32)
        waiting.clear()
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            bad = rows["doc_id"][int(np.argmin(finite))]
            raise InputError(f"the encoder gave a vector that is not finite for document {bad!r}")
        flat = pa.array(np.ascontiguousarray(vectors).ravel())
        column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        data = rows.to_arrow().append_column("vector", column)
        self.database.merge(self.name, data.select(schema.names), schema)

    def update(self, ids: pl.Series) -> None:
        """Take over the carried columns of documents whose texts stayed as they are."""
        schema = pa.schema(
            [VECTORS.field("doc_id"), *(pa.field(f.name, f.type) for f in self.fields)]
        )
        if len(ids):
            for rows in self._documents(ids, schema.names):
                self.database.merge(self.name, rows.to_arrow(), schema, insert=False)

    def delete(self, ids: Sequence[str]) -> None:
        """Delete the vectors of documents that are gone."""
        for start in range(0, len(ids), 10_000):
            self.database.delete(self.name, one_of("doc_id", ids[start : start + 10_000]))


def rows_of(
    database: Database, table: str, version: int | None, carried: Sequence[str] = ()
) -> pl.DataFrame:
    """doc_id and text_hash of each row, and as `filters` a hash of its carried columns."""
    parts = [_NO_ROWS]
    for batch in database.stream(table, columns=[*_KEY, *carried], version=version):
        rows = frame(batch)
        digest = rows.select(pl.struct(carried).hash()).to_series() if carried else None
        filters = pl.lit(0, pl.UInt64) if digest is None else digest
        parts.append(rows.select(*_KEY, filters=filters))
    return pl.concat(parts)


_NO_ROWS = pl.DataFrame(schema={"doc_id": pl.String, "text_hash": pl.Binary, "filters": pl.UInt64})


def pin_beside(
    database: Database, corpus: Corpus, fingerprint: str, columns: Iterable[str] = ()
) -> Corpus:
    """The corpus with an encoder's own table of vectors, pinned as well.

    Raises MissingResource if there is none, InputError if documents changed since it was made.
    """
    name = vectors_name(corpus.table, fingerprint)
    version = database.tagged(name, READY)
    if version is None:
        raise MissingResource(
            f"no vectors of encoder {fingerprint[:8]} are stored for table {corpus.table!r}: "
            "`rescore reevaluate CONFIG` makes them"
        )
    carried = carried_columns(corpus.opened(database).schema, columns)
    lacking = lacking_vectors(database, corpus.table, corpus.version, name, version, carried)
    if lacking:
        raise InputError(
            f"{lacking} documents of table {corpus.table!r} were changed after encoder "
            f"{fingerprint[:8]} encoded them: start `rescore reevaluate` again, which encodes those"
        )
    return replace(corpus, vector="vector", vectors_table=name, vectors_version=version)


def lacking_vectors(
    database: Database,
    table: str,
    version: int,
    name: str,
    vectors_version: int | None,
    carried: Sequence[str] = (),
) -> int:
    """How many documents a table of vectors does not hold as they are, or holds beyond them."""
    wanted = rows_of(database, table, version, carried)
    stored = rows_of(database, name, vectors_version, carried)
    keys = [*_KEY, "filters"]
    gone = stored.join(wanted, on="doc_id", how="anti")
    return len(wanted.join(stored, on=keys, how="anti")) + len(gone)


def keep_vectors(database: Database, table: str, version: int, column: str, mark: str) -> str:
    """Store a column of vectors of a documents table beside it, for the way back; that table."""
    name = vectors_name(table, mark)
    opened = database.need(table, version)
    width = int(opened.schema.field(column).type.list_size)
    beside = _Beside(database, Corpus(table, version, True), name, [])
    _refuse_other(database, name, mark)
    schema = beside.schema(width, mark)
    database.ensure(name, schema)
    wanted, stored = beside.wanted(), beside.stored()
    new = wanted.join(stored, on=_KEY, how="anti")["doc_id"]
    for rows in beside._documents(new, [*_KEY, column]):
        data: Any = rows.drop_nulls(column).rename({column: "vector"}).to_arrow()
        database.merge(name, _as_floats(data, schema), schema)
    beside.delete(stored.join(wanted, on="doc_id", how="anti")["doc_id"].to_list())
    database.tag(name, READY, int(database.need(name).version))
    return name


def _as_floats(data: pa.Table, schema: pa.Schema) -> pa.Table:
    """The rows with vectors of the schema's type."""
    return data.set_column(
        data.schema.get_field_index("vector"),
        "vector",
        data.column("vector").cast(schema.field("vector").type),
    ).select(schema.names)
