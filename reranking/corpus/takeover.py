"""Stored vectors whose encoder had another name in earlier versions: taken over after one check.

Earlier versions left an encoder's own settings (its token limit, its storage type) out of its
fingerprint. The same files under the new name may therefore give other vectors than are stored.
"""

from __future__ import annotations

import logging
from heapq import nlargest
from typing import Any, Protocol

import numpy as np

from reranking.corpus.ingest import Encoder
from reranking.corpus.stored import ENCODER_KEY, READY
from reranking.corpus.vector_columns import vector_columns
from reranking.errors import InputError
from reranking.store import Database

log = logging.getLogger(__name__)

_LONGEST = 8  # texts: a token limit shows in the longest ones
_CLOSE = 1e-3  # most that a number of a vector may differ between machines and library versions


class RenamedEncoder(Encoder, Protocol):
    """An encoder, with the fingerprint that earlier versions gave to the same files."""

    former_fingerprint: str | None


def take_over(database: Database, table: str, encoder: RenamedEncoder) -> None:
    """Give the new name to a column of vectors that carries the encoder's former one.

    Raises InputError if the encoder no longer gives the stored vectors.
    """
    marks = vector_columns(database, table)
    names = [n for n, mark in marks.items() if mark == encoder.former_fingerprint]
    if encoder.former_fingerprint is None or encoder.fingerprint in marks.values() or not names:
        return
    check_stored_texts(database, table, names[0], encoder)
    opened = database.need(table)
    was_ready = database.tagged(table, READY) == int(opened.version)
    metadata = {ENCODER_KEY.decode(): encoder.fingerprint}
    opened.update_field_metadata({"path": names[0], "metadata": metadata})
    if was_ready:
        database.tag(table, READY, int(database.need(table).version))
    log.info(
        "table %s: the vectors of encoder %s are those of %s, which is its name from now on",
        table,
        encoder.former_fingerprint[:8],
        encoder.fingerprint[:8],
    )


def check_stored_texts(
    database: Database,
    table: str,
    vector: str,
    encoder: Encoder,
    text: str = "text",
    version: int | None = None,
) -> None:
    """Raise InputError if the encoder gives other vectors for the longest texts than are stored."""
    stored: list[tuple[int, str, list[float]]] = []
    for batch in database.stream(table, columns=[text, vector], version=version, rows=8192):
        rows: list[dict[str, Any]] = batch.to_pylist()
        some = ((len(r[text]), r[text], r[vector]) for r in rows if r[text] and r[vector])
        stored = nlargest(_LONGEST, [*stored, *some])
    if not stored:
        return
    vectors = np.array([v for _, _, v in stored], np.float32)
    gap = float(np.abs(encoder.encode_documents([t for _, t, _ in stored]) - vectors).max())
    if not gap <= _CLOSE * max(1.0, float(np.abs(vectors).max())):
        raise InputError(
            f"the vectors of table {table!r} were made by these files with other settings: the "
            f"longest texts now get vectors that differ by {gap:.2g}. Restore max_seq_length, "
            "model_max_length and dtype of the encoder's folder as they were, or run "
            "`rescore reevaluate` to encode into a table beside it"
        )
