"""A pinned documents table: whose it is, what its columns are called, what is in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lancedb.expr import Expr
from numpy.typing import NDArray

from reranking.corpus.fields import field_of, names_of, path_of, type_of, value_at
from reranking.corpus.filters import fault_of, where_condition
from reranking.corpus.ids import id_words
from reranking.corpus.left_out import kept_rows
from reranking.corpus.sql import one_of_sql
from reranking.corpus.stored import ENCODER_KEY, READY
from reranking.errors import ConfigError, InputError, MissingResource
from reranking.fingerprints import ContentDigest, canonical, text_hash
from reranking.reading import taken
from reranking.store import Database, one_of

_IDS_PER_QUERY = 1_000  # a condition of more takes longer than a pass over all ids
_ROWS_AT_ONCE = 8192  # of documents, whose texts may be long
_BATCHES = 8  # of ids, among which some are looked for at once
_TAKEN_AT_ONCE = 2048  # documents by their place, which LanceDB holds several times
_EXAMPLES = 3


@dataclass(frozen=True)
class Corpus:
    """A documents table at one version, and what its columns are called.

    `text` is what FTS searches, `scored` what the reranker reads; `hash_column` is set where the
    hashes of `scored` are stored. `vectors_table` is set where the vectors that are searched stand
    in a table of their own, as those of an encoder on trial do. `home` is the URI of the documents'
    database where that is another than the one that is worked in. Of somebody else's table, rows
    without text are left out (`skips_empty`, set if there are any), and of rows with the same id
    all but the one with the highest `newest_by`.
    """

    table: str
    version: int
    managed: bool
    id: str = "doc_id"
    text: str = "text"
    vector: str = "vector"
    scored: str = "text"
    hash_column: str | None = "text_hash"
    vectors_table: str | None = None
    vectors_version: int | None = None
    home: str | None = None
    skips_empty: bool = False
    newest_by: str | None = None

    def stored(self) -> dict[str, Any]:
        """The fields as a run's plan keeps them: later ones only where they say something."""
        later = [f.name for f in fields(self) if f.name not in _FIRST_FIELDS]
        return {k: v for k, v in vars(self).items() if k not in later or v != getattr(Corpus, k)}

    def database(self, own: Database) -> Database:
        """The database in which the documents are; `own` is the one that is worked in."""
        return own if self.home is None else _opened(self.home)

    def opened(self, own: Database) -> Any:
        """The documents table at its pinned version."""
        return self.database(own).need(self.table, self.version)

    def opened_vectors(self, own: Database) -> Any:
        """The table whose vectors are searched, at its pinned version."""
        if self.vectors_table is None:
            return self.opened(own)
        return own.need(self.vectors_table, self.vectors_version)


_FIRST_FIELDS = (
    "table",
    "version",
    "managed",
    "id",
    "text",
    "vector",
    "scored",
    "hash_column",
)


@lru_cache(maxsize=16)
def _opened(uri: str) -> Database:
    """A database that is only read, opened once per process."""
    return Database(uri, must_exist=True)


def pin_managed(
    database: Database, table: str, scored: str | None = None, vector: str = "vector"
) -> Corpus:
    """The managed table at the version of its last completed ingest."""
    version = database.tagged(table, READY)
    if version is None:
        raise MissingResource(
            f"table {table!r} in {database.uri} has no completed ingest: run `rescore ingest` first"
        )
    column = scored or "text"
    stored = "text_hash" if column == "text" else None
    corpus = Corpus(table, version, True, vector=vector, scored=column, hash_column=stored)
    need_columns(database.need(table, version), corpus, needs_vector=False)
    return corpus


def vector_width(table: Any, corpus: Corpus) -> int:
    """Numbers per vector of the corpus' vector column."""
    kind: Any = type_of(table.schema, corpus.vector)
    return int(kind.list_size)


def encoder_mark(table: Any, corpus: Corpus) -> str | None:
    """The fingerprint of the encoder that made the vectors, where the table says so."""
    field = field_of(table.schema, corpus.vector)
    metadata = None if field is None else field.metadata
    mark = (metadata or {}).get(ENCODER_KEY)
    return None if mark is None else mark.decode()


def content_digest(database: Database, corpus: Corpus, where: Mapping[str, Any]) -> tuple[str, int]:
    """An order-free digest of (id, text hash, columns the filter uses), and the row count.

    Raises InputError where an id is missing or stands twice.
    """
    total = ContentDigest()
    hash_or_text = corpus.hash_column or corpus.scored
    searched = set() if corpus.text == corpus.scored else {corpus.text}
    extra = sorted((set(where) | searched) - {corpus.id, hash_or_text})
    schema = corpus.opened(database).schema
    paths = [path_of(schema, column) or [column] for column in extra]
    read = list(dict.fromkeys(path[0] for path in paths))
    columns = list(dict.fromkeys([corpus.id, hash_or_text, *read]))
    words = []
    for batch in rows_of_corpus(database, corpus, columns):
        ids = string_ids(batch.column(corpus.id), corpus)
        hashes = hashes_of(batch.column(hash_or_text), corpus)
        filters: Iterable[str] = (
            (
                canonical([str(value_at(r, path)) for path in paths])
                for r in batch.select(read).to_pylist()
            )
            if extra
            else [""] * len(ids)
        )
        words.append(id_words(ids))
        total.add(
            h + canonical([i, f]).encode("utf-8", "surrogatepass")
            for i, h, f in zip(ids, hashes, filters, strict=True)
        )
    if words:
        _refuse_twins(database, corpus, np.concatenate(words))
    return total.hex(), total.rows


def _refuse_twins(database: Database, corpus: Corpus, words: NDArray[np.uint64]) -> None:
    """Raise InputError, which names some and counts all, if ids stand more than once."""
    first = np.sort(words[:, 0])
    if not (first[1:] == first[:-1]).any():  # a hundredth of the time of what follows
        return
    known, counts = np.unique(words, axis=0, return_counts=True)
    if len(known) == len(words):
        return
    twins = {tuple(row) for row in known[counts > 1].tolist()}
    examples: dict[str, None] = {}
    for batch in rows_of_corpus(database, corpus, [corpus.id]):
        ids = string_ids(batch.column(corpus.id), corpus)
        at = id_words(ids).tolist()
        examples |= dict.fromkeys(i for i, row in zip(ids, at, strict=True) if tuple(row) in twins)
        if len(examples) >= _EXAMPLES:
            break
    raise InputError(
        f"column {corpus.id!r} of table {corpus.table!r} has {len(twins):,} ids that stand more "
        f"than once (in {int(counts[counts > 1].sum()):,} rows), e.g. "
        f"{', '.join(map(repr, sorted(examples)[:_EXAMPLES]))}; "
        "results could not say which document they mean. Name a unique column as documents.id, or "
        "a column that says which row is the newest: documents.on_duplicate: {newest_by: COLUMN}"
    )


def rows_of_corpus(
    database: Database, corpus: Corpus, columns: Sequence[str], where: Expr | str | None = None
) -> Iterator[pa.RecordBatch]:
    """Columns of the documents at their pinned version, without the rows that are left out."""
    home = corpus.database(database)
    read = list(dict.fromkeys([*columns, *([corpus.scored] if corpus.skips_empty else [])]))
    older = corpus.newest_by is not None
    for batch in home.stream(
        corpus.table, where, read, corpus.version, row_ids=older, rows=_ROWS_AT_ONCE
    ):
        if older or corpus.skips_empty:
            batch = kept_rows(home, corpus, batch)
        yield batch


def texts_of(database: Database, corpus: Corpus, doc_ids: Sequence[str]) -> dict[str, str]:
    """The text of each document that is in the pinned version, by id."""
    found: dict[str, str] = {}
    for batch in columns_of(database, corpus, doc_ids, [corpus.scored]):
        texts = (t or "" for t in batch.column(corpus.scored).to_pylist())
        found.update(zip(string_ids(batch.column(corpus.id), corpus), texts, strict=True))
    return found


def columns_of(
    database: Database, corpus: Corpus, doc_ids: Sequence[str], columns: Sequence[str]
) -> Iterable[pa.RecordBatch]:
    """The id and the columns of the given documents, in any order."""
    kind = type_of(corpus.opened(database).schema, corpus.id)
    names = list(dict.fromkeys([corpus.id, *columns]))
    ids: list[Any] = list(doc_ids)
    if pa.types.is_integer(kind):
        ids = [number for i in ids if (number := _integer(i, kind)) is not None]
    plain = pa.types.is_integer(kind) or pa.types.is_string(kind)
    if len(ids) > _IDS_PER_QUERY and plain and not any("." in name for name in names):
        yield from _rows_with_ids(database, corpus, pa.array(ids, kind), names)
        return
    by_sql = "." in corpus.id or pa.types.is_uint64(kind)  # which `lancedb.expr` cannot say
    for start in range(0, len(ids), _IDS_PER_QUERY):
        part = ids[start : start + _IDS_PER_QUERY]
        where = one_of_sql(corpus.id, part) if by_sql else one_of(corpus.id, part)
        yield from rows_of_corpus(database, corpus, names, where)


def _rows_with_ids(
    database: Database, corpus: Corpus, ids: pa.Array, names: list[str]
) -> Iterator[pa.RecordBatch]:
    """Columns of the documents with these ids: where they stand is read first, from all ids.

    A condition on 100,000 ids takes LanceDB four times as long, and 4 KB of memory for each.
    """
    home, rows = corpus.database(database), []
    stream = home.stream(corpus.table, None, [corpus.id], corpus.version, row_ids=True)
    while part := list(islice(stream, _BATCHES)):
        those = pa.Table.from_batches(part)
        having = pc.is_in(those[corpus.id], value_set=ids)  # which hashes them once for all
        rows += those["_rowid"].filter(having).to_pylist()
    left_out = corpus.newest_by is not None or corpus.skips_empty
    read = list(dict.fromkeys([*names, *([corpus.scored] if corpus.skips_empty else [])]))
    for found in taken(corpus.opened(database), rows, read, rows=_TAKEN_AT_ONCE):
        for batch in found.to_batches():
            if corpus.newest_by is None:
                batch = batch.drop_columns(["_rowid"])
            yield kept_rows(home, corpus, batch) if left_out else batch


def _integer(identifier: str, kind: pa.DataType) -> int | None:
    """The integer that an id is the text of; None for `abc`, `5.0`, `05` and what is too long."""
    digits = identifier.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
        return None
    number = int(identifier)
    least = 0 if pa.types.is_unsigned_integer(kind) else -(2 ** (kind.bit_width - 1))
    held = least <= number < least + 2**kind.bit_width
    return number if held and str(number) == identifier else None


def string_ids(column: pa.Array | pa.ChunkedArray, corpus: Corpus) -> list[str]:
    """The ids as strings; raises InputError where one is missing."""
    if column.null_count:
        raise InputError(f"column {corpus.id!r} of table {corpus.table!r} has rows without an id")
    return [str(i) for i in column.to_pylist()]


def hashes_of(column: pa.Array | pa.ChunkedArray, corpus: Corpus) -> list[bytes]:
    """The text hash of each row of the corpus' hash or text column; null text counts as empty."""
    if corpus.hash_column is not None:
        return list(column.to_pylist())
    return [text_hash(t or "") for t in column.to_pylist()]


def need_columns(table: Any, corpus: Corpus, *, needs_vector: bool) -> None:
    """Raise ConfigError where the table lacks a column, or it is of a type that is no use."""
    schema: pa.Schema = table.schema
    wanted = [corpus.id, corpus.text, corpus.scored] + ([corpus.vector] if needs_vector else [])
    kinds = {name: type_of(schema, name) for name in dict.fromkeys(wanted)}
    missing = sorted(name for name, kind in kinds.items() if kind is None)
    if missing:
        raise ConfigError(
            f"table {corpus.table!r} has no column {missing}; its columns are {names_of(schema)}. "
            "Name them with documents.id, documents.text, documents.vector, rerank.column; a field "
            "inside a struct by its path, as meta.body."
        )
    faults = []
    for name in dict.fromkeys([corpus.text, corpus.scored]):
        if not _is_text(kinds[name]):
            faults.append(f"{name!r} is {kinds[name]}, expected text")
    id_type = kinds[corpus.id]
    if not (_is_text(id_type) or pa.types.is_integer(id_type)):
        faults.append(f"{corpus.id!r} is {id_type}, expected text or integers")
    if needs_vector and not _is_vector(kind := kinds[corpus.vector]):
        faults.append(f"{corpus.vector!r} is {kind}, expected a fixed-size list of floats")
    for name in kinds:
        if "." in name and "`" in name:
            faults.append(f"{name!r} has a backtick in its path, by which LanceDB finds no field")
    for name in sorted({"_distance", "_score", "query_index"} & set(schema.names)):
        faults.append(f"{name!r} has the name of one that LanceDB adds to hits: rename it")
    if faults:
        raise ConfigError(f"table {corpus.table!r}: column " + "; column ".join(faults))


def _is_vector(kind: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def check_filter(database: Database, corpus: Corpus, where: Mapping[str, Any]) -> None:
    """Raise ConfigError where the filter does not fit the table: its columns or their types."""
    if not where:
        return
    table = corpus.opened(database)
    schema: pa.Schema = table.schema
    missing = sorted(c for c in where if path_of(schema, c) is None)
    if missing:
        raise ConfigError(f"search.where names {missing}; the columns are {names_of(schema)}")
    faults = [fault_of(column, type_of(schema, column), c) for column, c in where.items()]
    if any(faults):
        raise ConfigError("search.where: " + "; ".join(f for f in faults if f))
    try:  # what remains is what only LanceDB can tell, such as texts that are no dates
        table.search().where(where_condition(where, schema)).select([corpus.id]).limit(1).to_arrow()
    except (ValueError, RuntimeError, OSError) as error:
        reason = str(error).strip().split("\n", 1)[0][:300]
        raise ConfigError(f"search.where cannot be used on {corpus.table!r}: {reason}") from error
