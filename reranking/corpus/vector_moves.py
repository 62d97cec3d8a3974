"""Another encoder's vectors become those of the documents table, in one commit.

They are first copied into a column that is no vector to LanceDB (a list of floats); then one commit
gives it the name and the type of `vector` and takes both from the old one. So the table has exactly
one vector column at every moment, and `table.search(vector)` needs no name. What a killed move left
is finished by the next one, or by `maintain`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from configs.documents import Documents
from reranking.corpus.corpus import Corpus, content_digest
from reranking.corpus.indexes import bring_indexes_up_to_date, create_fts, vector_index
from reranking.corpus.stored import ENCODER_KEY, READY
from reranking.corpus.vector_columns import FIRST_COLUMN, vector_columns
from reranking.corpus.vector_tables import keep_vectors, lacking_vectors, vectors_name
from reranking.errors import InputError, MissingResource
from reranking.retry import retry
from reranking.schemas import VECTORS
from reranking.store import Database

log = logging.getLogger(__name__)

INCOMING, OUTGOING = "_incoming_vector", "_outgoing_vector"
_MOVING = b"rescore.moving"  # on doc_id: whose vectors are being moved in


@dataclass(frozen=True)
class Moved:
    """What was moved: the vectors of encoder `now`; those of `before` are kept in table `kept`."""

    table: str
    before: str
    now: str
    kept: str


def move_in(database: Database, documents: Documents, fingerprint: str) -> Moved | None:
    """Make an encoder's stored vectors those of the documents table; None if they are already.

    Raises MissingResource where its vectors are not stored, InputError where documents lack one.
    """
    table = documents.table
    finish_move(database, documents)
    marks = vector_columns(database, table)
    if len(marks) > 1:
        raise MissingResource(
            f"table {table!r} has the vector columns {sorted(marks)} of earlier trials: run "
            "`rescore maintain CONFIG`, which moves all but those in use to tables of their own"
        )
    before = marks.get(FIRST_COLUMN)
    if before is None:
        raise MissingResource(f"table {table!r} in {database.uri} has no vectors of rescore's")
    if before == fingerprint:
        return None
    name = vectors_name(table, fingerprint)
    version = _whole(database, table)
    _need_all(database, table, version, name, fingerprint)
    kept = keep_vectors(database, table, version, FIRST_COLUMN, before)
    _fill(database, table, name, fingerprint)
    _swap(database, table, name)
    finish_move(database, documents)
    log.info("table %s: vectors of encoder %s, before %s", table, fingerprint[:8], before[:8])
    return Moved(table, before, fingerprint, kept)


def _whole(database: Database, table: str) -> int:
    """The newest version; raises where it has rows of an ingest that did not finish."""
    ready = database.tagged(table, READY)
    if ready is None:
        raise MissingResource(
            f"table {table!r} has no completed ingest: run `rescore ingest` first"
        )
    newest = int(database.need(table).version)
    if newest != ready:
        digests = {content_digest(database, Corpus(table, v, True), {}) for v in (ready, newest)}
        if len(digests) > 1:
            raise InputError(
                f"table {table!r} has rows of an ingest that did not finish: run `rescore ingest` "
                "with the encoder in use first"
            )
    return newest


def _need_all(database: Database, table: str, version: int, name: str, fingerprint: str) -> None:
    stored = database.tagged(name, READY)
    if stored is None:
        raise MissingResource(
            f"the vectors of encoder {fingerprint[:8]} are not stored (any more): there is no "
            f"table {name!r}. `rescore reevaluate CONFIG` with that encoder makes it"
        )
    lacking = lacking_vectors(database, table, version, name, stored)
    if lacking:
        raise InputError(
            f"{lacking} documents of table {table!r} have no vector of encoder {fingerprint[:8]}: "
            "they came or changed since it encoded them. Run `rescore reevaluate CONFIG` with that "
            "encoder, which encodes those, and promote the run that it makes"
        )


def _fill(database: Database, table: str, name: str, fingerprint: str) -> None:
    """Copy the vectors into a column that no search takes for one."""
    opened = database.need(table)
    left = opened.schema.field(INCOMING) if INCOMING in opened.schema.names else None
    mark = {ENCODER_KEY: fingerprint.encode()}
    if left is not None and (left.metadata or {}).get(ENCODER_KEY) != mark[ENCODER_KEY]:
        opened.drop_columns([INCOMING])
    plain = pa.list_(pa.float32())
    database.add_columns(table, [pa.field(INCOMING, plain, nullable=True, metadata=mark)])
    schema = pa.schema([VECTORS.field("doc_id"), pa.field(INCOMING, plain)])
    version = database.tagged(name, READY)
    for batch in database.stream(name, columns=["doc_id", "vector"], version=version):
        arrays = [batch.column("doc_id"), batch.column("vector").cast(plain)]
        database.merge(table, pa.table(arrays, names=schema.names), schema, insert=False)
    empty = database.need(table).count_rows(f"{INCOMING} IS NULL")
    if empty:
        database.need(table).drop_columns([INCOMING])
        raise InputError(
            f"{empty} documents came to table {table!r} while its vectors were being moved: "
            "nothing was changed. Run `rescore reevaluate CONFIG` and promote again"
        )


def _swap(database: Database, table: str, name: str) -> None:
    """The one commit: what came in is `vector` from now on, what was it is no vector any more."""
    width = int(database.need(name).schema.field("vector").type.list_size)
    fingerprint = database.need(table).schema.field(INCOMING).metadata[ENCODER_KEY].decode()

    def swap() -> None:
        opened = database.need(table)
        opened.update_field_metadata(
            {"path": "doc_id", "metadata": {_MOVING.decode(): fingerprint}}
        )
        for entry in opened.list_indices():
            if list(entry.columns) == [FIRST_COLUMN]:  # a column with an index keeps its type
                opened.drop_index(entry.name)
        opened.alter_columns(
            {
                "path": FIRST_COLUMN,
                "rename": OUTGOING,
                "data_type": pa.list_(pa.float32()),
                "nullable": True,
            },
            {
                "path": INCOMING,
                "rename": FIRST_COLUMN,
                "data_type": pa.list_(pa.float32(), width),
            },
        )

    retry(f"moving vectors into {table}", swap)


def finish_move(database: Database, documents: Documents) -> None:
    """Do what is left after the one commit: mark, clean up, index, move the tag `ready`.

    Nothing if no move was under way.
    """
    table = documents.table
    opened = database.open(table)
    if opened is None or OUTGOING not in opened.schema.names:
        return
    marks = opened.schema.field("doc_id").metadata or {}
    mark = {ENCODER_KEY.decode(): marks[_MOVING].decode()}
    opened.update_field_metadata({"path": FIRST_COLUMN, "metadata": mark})
    opened.alter_columns({"path": FIRST_COLUMN, "nullable": False})
    # Rows that were rewritten leave their terms in the statistics of the old index.
    create_fts(database, documents)
    bring_indexes_up_to_date(database, documents, metric=_metric(database, documents))
    database.need(table).drop_columns([OUTGOING])
    database.tag(table, READY, int(database.need(table).version))


def _metric(database: Database, documents: Documents) -> str:
    """The metric of the vector index before: that of the version that is still `ready`."""
    before: Any = database.need(documents.table, database.tagged(documents.table, READY))
    index = vector_index(before, FIRST_COLUMN)
    return str(index["metric"]) if index else "cosine"
