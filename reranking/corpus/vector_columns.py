"""Vector columns of a documents table, each marked with its encoder's fingerprint.

A table has one, `vector`: consumers search it without a name. Another encoder's vectors stand in a
table of their own (corpus/vector_tables.py). Earlier versions put them beside it, as columns
`vector_<encoder8>`, which `maintain` moves (upkeep/columns.py).
"""

from __future__ import annotations

import pyarrow as pa

from reranking.corpus.corpus import Corpus
from reranking.corpus.stored import ENCODER_KEY
from reranking.errors import InputError
from reranking.store import Database

FIRST_COLUMN = "vector"


def vector_columns(database: Database, table: str, version: int | None = None) -> dict[str, str]:
    """The vector columns of a table with the encoder fingerprint each is marked with."""
    opened = database.open(table, version)
    fields = [] if opened is None else [f for f in opened.schema if _is_vector(f)]
    return {f.name: f.metadata[ENCODER_KEY].decode() for f in fields}


def _is_vector(field: pa.Field) -> bool:
    """Whether we made the column; one that somebody added to the table has no mark."""
    return pa.types.is_fixed_size_list(field.type) and ENCODER_KEY in (field.metadata or {})


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
