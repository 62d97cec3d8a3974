"""Whose vectors a table has: by our own mark, by LanceDB's metadata, and by the vectors.

LanceDB keeps the embedding functions of a table in the metadata `embedding_functions` of its
schema. Such a function is used if a config names no encoder and queries bring no vectors; whatever
is used, a few stored texts are encoded again and compared with what is stored.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from configs.documents import Encoder as Settings
from reranking.corpus.corpus import Corpus, encoder_mark, vector_width
from reranking.corpus.fields import field_of
from reranking.corpus.ingest import Encoder
from reranking.corpus.sql import has_text_sql, is_null_sql
from reranking.corpus.takeover import RenamedEncoder, check_stored_texts
from reranking.errors import InputError, MissingPrerequisite, RescoreError
from reranking.models.builtin import BUILTIN_PREFIX, ENCODER
from reranking.scoring.encoder import SentenceEncoder
from reranking.store import Database

log = logging.getLogger(__name__)

_METADATA = b"embedding_functions"
_LOCAL = ("sentence-transformers",)  # LanceDB's names of functions that this encoder computes, too
_TEXTS = 8
_OTHER, _SAME = 0.5, 0.99  # cosine of a stored vector and the same text's: another model; the same


@dataclass(frozen=True)
class Stated:
    """What a table's metadata says of a vector column: LanceDB's function, its model, its text."""

    function: str
    model: str
    text: str

    def __str__(self) -> str:
        return f"{self.function} {self.model}".strip()


def stated_encoder(table: Any, vector: str) -> Stated | None:
    """What LanceDB's metadata says of who made the vectors; None if it says nothing readable."""
    try:
        entries = json.loads((table.schema.metadata or {}).get(_METADATA, b"[]"))
        for entry in entries:
            if entry["vector_column"] == vector:
                model = entry.get("model") or {}
                name = model.get("name") or model.get("model_name") or ""
                return Stated(str(entry["name"]), str(name), str(entry["source_column"]))
    except (ValueError, TypeError, KeyError, AttributeError):
        log.warning("the table's metadata on its embedding functions cannot be read")
    return None


def encoder_of(stated: Stated, table: str) -> SentenceEncoder:
    """The encoder that a table's metadata names; raises MissingPrerequisite if it is not here."""
    reasons: list[str] = []
    if stated.function in _LOCAL:
        for name in _places(stated.model):
            try:
                return SentenceEncoder(Settings(model=name))
            except (RescoreError, ValueError) as error:
                reasons.append(str(error))
    else:
        reasons.append(f"{stated.function} is a service or a model of another kind")
    raise MissingPrerequisite(
        f"queries have no vectors and the config names no documents.encoder; table {table!r} says "
        f"that {stated} made its vectors, which cannot be used here ({reasons[-1][:300]}). Name "
        "the same model as documents.encoder, or give each query its `vector`"
    )


def _places(model: str) -> Iterator[str]:
    """Where a model of sentence-transformers may be, by the name it goes by there."""
    short = model.rsplit("/", 1)[-1]
    if BUILTIN_PREFIX + short == ENCODER and not Path(model).is_dir():
        yield ENCODER
    yield model
    if "/" not in model:
        yield f"sentence-transformers/{model}"


def check_mark(database: Database, corpus: Corpus, encoder: RenamedEncoder | None) -> None:
    """Raise InputError if the table's own mark says that another encoder made the vectors."""
    table = corpus.opened(database)
    if encoder is None or field_of(table.schema, corpus.vector) is None:
        return
    mark = encoder_mark(table, corpus)
    if mark is not None and mark == encoder.former_fingerprint:
        home = corpus.database(database)
        check_stored_texts(home, corpus.table, corpus.vector, encoder, corpus.text, corpus.version)
        return
    if mark is not None and mark != encoder.fingerprint:
        raise InputError(
            f"the vectors of table {corpus.table!r} come from encoder {mark[:8]}, the config "
            f"names encoder {encoder.fingerprint[:8]}; a query encoded by one cannot search "
            "the other's. Name the old encoder, use another documents.table, or run `rescore "
            "reevaluate` to encode into a table beside it and compare."
        )


def check_vectors(database: Database, corpus: Corpus, encoder: Encoder, model: str) -> None:
    """Raise InputError if somebody else's vectors are of another model than the encoder.

    A few stored texts are encoded again. `model` is the encoder's name, which is compared with the
    one in the table's metadata; the vectors decide.
    """
    table = corpus.opened(database)
    if encoder_mark(table, corpus) is not None:  # checked by it
        return
    stated = stated_encoder(table, corpus.vector)
    says = "" if stated is None else f", and its metadata says that {stated} made them"
    width, stored_width = encoder.dimension, vector_width(table, corpus)
    if width != stored_width:
        raise InputError(
            f"the vectors of table {corpus.table!r} have {stored_width} numbers, those of encoder "
            f"{model!r} have {width}{says}. Name the model that made them as documents.encoder"
        )
    named = stated is not None and field_of(table.schema, stated.text) is not None
    text = stated.text if stated is not None and named else corpus.text
    where = f"({has_text_sql(text)}) AND NOT ({is_null_sql(corpus.vector)})"
    query = table.search().where(where).select([text, corpus.vector]).limit(_TEXTS)
    rows = query.to_arrow().to_pylist()
    if not rows:
        return
    stored = np.array([row[corpus.vector] for row in rows], np.float64)
    fresh = encoder.encode_documents([row[text] for row in rows]).astype(np.float64)
    norms = np.linalg.norm(stored, axis=1) * np.linalg.norm(fresh, axis=1)
    close = float(np.median((stored * fresh).sum(axis=1) / np.where(norms > 0, norms, 1.0)))
    if close < _OTHER:
        raise InputError(
            f"the vectors of table {corpus.table!r} were not made by encoder {model!r}: "
            f"{len(rows)} stored texts, encoded again, have a median cosine of {close:.2f} with "
            f"their stored vectors{says}. Name the model that made them as documents.encoder"
        )
    other_name = stated is not None and stated.model.rsplit("/", 1)[-1] not in model
    if close < _SAME or other_name:
        log.warning(
            "table %r: encoder %r gives stored texts vectors of a median cosine of %.3f with the "
            "stored ones%s: is it the same model, of the same text?",
            *(corpus.table, model, close, says),
        )
