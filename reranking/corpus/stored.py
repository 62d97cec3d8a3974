"""A documents table as an ingest finds it: its rows, its vectors, whose encoder made them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from reranking.corpus.ids import IdIndex, hash_values, id_words
from reranking.errors import InputError, MissingResource
from reranking.schemas import DOCUMENTS
from reranking.store import Database

READY = "ready"
ENCODER_KEY = b"rescore.encoder"


def check_encoder(
    database: Database, table_name: str, fingerprint: str, column: str = "vector"
) -> None:
    """Raise InputError where the stored vectors come from an encoder of another fingerprint."""
    table = database.open(table_name)
    if table is None or column not in table.schema.names:
        return
    stored = (table.schema.field(column).metadata or {}).get(ENCODER_KEY)
    if stored is None or stored.decode() != fingerprint:
        given = "another tool" if stored is None else f"encoder {stored.decode()[:8]}"
        raise InputError(
            f"the vectors of table {table_name!r} come from {given}, the config names encoder "
            f"{fingerprint[:8]}; vectors of two encoders cannot be compared. Name the old encoder, "
            "use another documents.table, or run `rescore reevaluate` to encode beside it."
        )


def stored_rows(database: Database, name: str) -> IdIndex:
    """The ids of the stored documents, each with the hash of its source row."""
    index = IdIndex()
    words: list[NDArray[np.uint64]] = []
    hashes: list[NDArray[np.void]] = []
    for batch in database.stream(name, columns=["doc_id", "row_hash"]):
        words.append(id_words(batch.column("doc_id").to_pylist()))
        hashes.append(hash_values(batch.column("row_hash").to_pylist()))
    if words:
        index.add(np.concatenate(words), np.concatenate(hashes))
    return index


def stored_width(database: Database, name: str, vector: str) -> int | None:
    """Numbers per stored vector, None if the table does not exist yet.

    Raises MissingResource where the table is not one that rescore made.
    """
    table = database.open(name)
    if table is None:
        return None
    lacking = sorted({*DOCUMENTS.names, vector} - {*table.schema.names})
    if lacking:
        raise MissingResource(
            f"table {name!r} in {database.uri} was made by somebody else: it lacks {lacking}. Use "
            "another documents.table, or rescore it in place with documents.managed: false"
        )
    return int(table.schema.field(vector).type.list_size)


def marked_schema(schema: pa.Schema, encoder: str, vector: str) -> pa.Schema:
    """The schema with our key marks and the encoder's fingerprint on the vector column."""
    fields = []
    for column in schema:
        if column.name in DOCUMENTS.names:
            column = DOCUMENTS.field(column.name)
        elif column.name == vector:
            column = column.with_nullable(False).with_metadata({ENCODER_KEY: encoder.encode()})
        fields.append(column)
    return pa.schema(fields)
