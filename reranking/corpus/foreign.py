"""Somebody else's table: found, pinned, looked through, and only ever read."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from lancedb.expr import col, lit

from configs.documents import Documents
from reranking.corpus.corpus import Corpus, need_columns
from reranking.corpus.fields import names_of, path_of
from reranking.corpus.known_encoder import encoder_of, stated_encoder
from reranking.corpus.left_out import older_rows
from reranking.corpus.rejects import write_rejects
from reranking.corpus.sql import has_text_sql, is_null_sql
from reranking.errors import ConfigError, MissingResource
from reranking.fingerprints import canonical, fingerprint
from reranking.scoring.encoder import SentenceEncoder
from reranking.sources.rows import Reject
from reranking.store import Database, equals

_AT_ONCE = 10_000  # rejects committed together


def home_of(database: Database, documents: Documents) -> tuple[Database, str | None]:
    """The database that the documents are in, and its URI where it is not the one worked in."""
    other = documents.database
    if other is None or other == database.uri:
        return database, None
    return Database(other, must_exist=True), other


def pin_foreign(
    database: Database, documents: Documents, *, scored: str | None, needs_vector: bool
) -> Corpus:
    """The table at the configured version, else at its newest."""
    home, other = home_of(database, documents)
    table, version = documents.table, _version(home, documents)
    opened = home.need(table, version)
    newest_by = None if documents.on_duplicate == "error" else documents.on_duplicate.newest_by
    corpus = Corpus(
        table,
        int(opened.version),
        False,
        documents.id,
        documents.text,
        documents.vector,
        scored or documents.text,
        None,
        home=other,
        newest_by=newest_by,
    )
    need_columns(opened, corpus, needs_vector=needs_vector)
    if newest_by is not None and path_of(opened.schema, newest_by) is None:
        raise ConfigError(
            f"documents.on_duplicate.newest_by: table {table!r} has no column {newest_by!r}; its "
            f"columns are {names_of(opened.schema)}"
        )
    empty = opened.count_rows() - opened.count_rows(has_text_sql(corpus.scored))
    if empty:
        corpus = Corpus(**{**vars(corpus), "skips_empty": True})
    if newest_by is not None and not older_rows(home, corpus):
        corpus = Corpus(**{**vars(corpus), "newest_by": None})
    return corpus


def stated_encoder_of(database: Database, documents: Documents) -> SentenceEncoder | None:
    """The encoder that the table's metadata names; None if it names none."""
    home, _ = home_of(database, documents)
    stated = stated_encoder(home.need(documents.table), documents.vector)
    return None if stated is None else encoder_of(stated, documents.table)


def _version(home: Database, documents: Documents) -> int | None:
    """The configured version's number; raises MissingResource if the table has no such tag."""
    given = documents.version
    if not isinstance(given, str):
        return given
    tags = home.tags(documents.table)
    if given not in tags:
        raise MissingResource(
            f"documents.version: table {documents.table!r} in {home.uri} has no tag {given!r} "
            f"(its tags: {', '.join(sorted(tags)) or 'none'}); a version's number does as well"
        )
    return tags[given]


def survey(database: Database, corpus: Corpus) -> dict[str, Any]:
    """Count what no search will find; rows without text become rejects, as at an ingest.

    rows, rejected, without_vector (found by their words only), older (rows with a newer twin).
    """
    started, source = datetime.now(UTC), _source(database, corpus)
    rejected = 0
    if corpus.skips_empty:
        waiting: list[Reject] = []
        for reject in _empty_rows(database, corpus):
            waiting.append(reject)
            rejected += 1
            if len(waiting) >= _AT_ONCE:
                write_rejects(database, waiting, source, started)
                waiting.clear()
        write_rejects(database, waiting, source, started)
    if database.open("rejects") is not None:
        mended = equals("source_fp", source) & (col("rejected_at") < lit(started))
        database.delete("rejects", mended)
    return look_through(database, corpus) | {"rejected": rejected}


def look_through(database: Database, corpus: Corpus) -> dict[str, Any]:
    """What `survey` counts; nothing is written."""
    opened = corpus.opened(database)
    rows, without = opened.count_rows(), 0
    if path_of(opened.schema, corpus.vector) is not None:
        without = opened.count_rows(is_null_sql(corpus.vector))
    return {
        "rows": rows,
        "rejected": rows - opened.count_rows(has_text_sql(corpus.scored)),
        "without_vector": without,
        "older": len(older_rows(corpus.database(database), corpus)),
    }


def _source(database: Database, corpus: Corpus) -> str:
    return fingerprint(canonical(["table", corpus.home or database.uri, corpus.table]))


def _empty_rows(database: Database, corpus: Corpus) -> Iterator[Reject]:
    number = 0
    columns = list(dict.fromkeys([corpus.id, corpus.scored]))
    home = corpus.database(database)
    for batch in home.stream(corpus.table, columns=columns, version=corpus.version, rows=_AT_ONCE):
        ids, texts = (batch.column(name).to_pylist() for name in (corpus.id, corpus.scored))
        for identifier, text in zip(ids, texts, strict=True):
            number += 1
            if not (text or "").strip():
                yield Reject(
                    number, None if identifier is None else str(identifier), "empty text", None
                )
