"""Documents in: source rows become rows of a managed table, each with text, vector and hashes.

Only what changed is encoded and written. Rows are committed every `commit_seconds`, so a killed
ingest loses no more than that; the tag `ready` moves once everything is in and indexed, and
readers pin `ready`, so they never see half an ingest.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from lancedb.expr import col, lit
from numpy.typing import NDArray

from configs.documents import Documents
from reranking.arrow import spans
from reranking.corpus.beside import Behind, ahead
from reranking.corpus.columns import ColumnTypes
from reranking.corpus.documents import Document, column_fields, document_of, table_of
from reranking.corpus.ids import IdIndex, hash_values, id_words
from reranking.corpus.indexes import bring_indexes_up_to_date
from reranking.corpus.rejects import write_rejects
from reranking.corpus.stored import (
    READY,
    check_encoder,
    marked_schema,
    stored_rows,
    stored_width,
)
from reranking.corpus.unchanged import completed, mark_of, note_completed
from reranking.corpus.weights import LongestTexts, weight, windows
from reranking.errors import InputError
from reranking.files import need_links
from reranking.memory import give_back
from reranking.progress import Progress, Status, shares_of, silent
from reranking.schemas import DOCUMENTS
from reranking.sources.rows import Reject, Row
from reranking.store import Database, equals, one_of

log = logging.getLogger(__name__)

_STEP = 512  # rows encoded between two looks at the clock, unless `texts_at_once` says more
_FEW_GONE = 20  # so many rows may always be deleted
_EARLY = 1000  # rows after which a source that mostly fails is given up


class Encoder(Protocol):
    """Texts in, float32 vectors of `dimension` numbers out, one row per text."""

    fingerprint: str

    @property
    def dimension(self) -> int: ...

    def encode_documents(self, texts: Sequence[str]) -> NDArray[np.float32]: ...


_Window = list[Row | Reject]
_Made = list[Document | Reject]


@dataclass
class IngestReport:
    """What an ingest did, in rows; `version` is the one that `ready` points at."""

    rows: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    kept: int = 0  # stored rows whose source row is faulty today
    rejected: int = 0
    version: int = 0
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-like values."""
        return asdict(self) | {"reasons": dict(self.reasons)}


def ingest(
    database: Database,
    rows: Callable[[], Iterator[Row | Reject]],
    encoder: Encoder | None,
    documents: Documents,
    *,
    source_fp: str,
    column: str = "vector",
    metric: str = "cosine",
    commit_seconds: float = 30.0,
    progress: Progress = silent,
    source_digest: str | None = None,
) -> IngestReport:
    """Bring the table in line with the source and point the tag `ready` at the result.

    `rows` opens the source; it is read twice, first to decide the types of its own columns: what a
    column's type is depends on the whole source, never on what was committed first. Without an
    encoder every row brings its own `vector`. `column` is the encoder's vector column, `metric`
    that of the vector index. `source_digest` names the source's bytes: if an ingest of the same
    ones by the same settings was completed, no row is read. Raises InputError if the table's
    vectors come from another encoder, if most of the rows are bad, if a column does not fit its
    stored type, or if more rows than `documents.delete_limit` would be deleted.
    """
    started = time.monotonic()
    mark = None
    if source_digest is not None:
        mark = mark_of(source_digest, _settings(documents, encoder, column))
        before = completed(database, documents.table, mark, source_fp)
        if before is not None:
            report = IngestReport(**before[0], reasons=before[1])
            report.version = _finish(database, documents, column, metric)
            report.seconds = time.monotonic() - started
            return report
    if "://" not in database.uri:
        need_links(Path(database.uri))
    job = _Ingest(database, encoder, documents, source_fp, column, commit_seconds, progress)
    job.look_through(rows())
    with job.behind:
        for window in ahead(job.made(windows(rows(), documents.window_rows))):
            job.window(*window)
            give_back()
    if not job.report.rows:
        raise InputError("the source has no rows: expected at least one document")
    if documents.delete_missing:
        job.delete_missing()
    job.finish(metric)
    if mark is not None:
        note_completed(database, documents.table, mark, vars(job.report), job.report.reasons)
    job.report.seconds = time.monotonic() - started
    return job.report


def _settings(documents: Documents, encoder: Encoder | None, column: str) -> dict[str, Any]:
    """What decides, beside the source, which rows are stored: also which rescore made them."""
    return {
        "template": documents.text_template,
        "types": documents.types,
        "delete_missing": documents.delete_missing,
        "encoder": None if encoder is None else encoder.fingerprint,
        "column": column,
        "rescore": version("rescore"),
    }


def _finish(database: Database, documents: Documents, column: str, metric: str) -> int:
    """Bring the indexes up to date and point the tag `ready` at the result; its version."""
    name = documents.table
    bring_indexes_up_to_date(database, documents, column=column, metric=metric)
    give_back()
    ready = int(database.need(name).version)
    if database.tagged(name, READY) != ready:
        database.tag(name, READY, ready)
    return ready


class _Ingest:
    """One ingest under way: what is stored already, what was seen, what was done."""

    def __init__(
        self,
        database: Database,
        encoder: Encoder | None,
        documents: Documents,
        source_fp: str,
        column: str,
        commit_seconds: float,
        progress: Progress,
    ) -> None:
        self.database, self.encoder, self.documents = database, encoder, documents
        self.source_fp, self.column = source_fp, column
        self.commit_seconds, self.progress = commit_seconds, progress
        self.report = IngestReport()
        self.started_at = datetime.now(UTC)
        self.template: dict[str, Any] = {"template": documents.text_template}
        if documents.types:
            self.template["types"] = dict(documents.types)
        self.width = stored_width(database, documents.table, column)
        fingerprint = encoder.fingerprint if encoder else "supplied"
        check_encoder(database, documents.table, fingerprint, column)
        self.stored = stored_rows(database, documents.table)
        self.seen = np.zeros(len(self.stored), bool)
        self.faulty = np.zeros(len(self.stored), bool)
        self.hidden, self.new = 0, IdIndex()  # hidden: rejects that may be any row
        self.types = ColumnTypes(documents.types)
        self.behind = Behind()  # commits while what comes next is encoded

    def look_through(self, rows: Iterator[Row | Reject]) -> None:
        """Decide the type of each column of the source's own; stored ones must hold its values.

        Raises InputError as well where LanceDB could not index the texts.
        """
        longest = LongestTexts()
        for row in rows:
            if isinstance(row, Row):
                self.types.see(row)
                longest.see(row.values.get("text"))
        longest.check()
        table = self.database.open(self.documents.table)
        self.types.settle(None if table is None else table.schema)

    def made(self, windows: Iterator[list[Row | Reject]]) -> Iterator[tuple[_Window, _Made]]:
        """Each window with its rows as documents or rejects."""
        for window in windows:
            yield window, [r if isinstance(r, Reject) else self._document(r) for r in window]

    def window(self, window: _Window, made: _Made) -> None:
        """Take in one window of rows: sort out bad ones, write changed ones."""
        documents, rejects = self._sort_out(made)
        self.report.rows += len(window)
        self._refuse_if_mostly_bad(window, rejects)
        self._write_rejects(rejects)
        self._write(self._changed(documents))
        self.progress(Status("ingest", self.report.rows))

    def _sort_out(self, made: _Made) -> tuple[list[Document], list[Reject]]:
        documents: list[Document] = []
        rejects: list[Reject] = []
        first_at: dict[str, int] = {}
        for one in made:
            if isinstance(one, Document) and one.doc_id in first_at:
                one = one.rejected(f"duplicate id, first at row {first_at[one.doc_id]}")
            if isinstance(one, Reject):
                rejects.append(one)
            else:
                first_at[one.doc_id] = one.number
                documents.append(one)
        return self._across_windows(documents, rejects)

    def _document(self, row: Row) -> Document | Reject:
        """The row as a document; the first supplied vector says how wide all have to be."""
        made = document_of(row, self.template, self.encoder, self.types)
        if isinstance(made, Reject) or made.vector is None:
            return made
        self.width = self.width or len(made.vector)
        if len(made.vector) == self.width:
            return made
        return made.rejected(f"vector of {len(made.vector)} numbers, expected {self.width}")

    def _across_windows(
        self, documents: list[Document], rejects: list[Reject]
    ) -> tuple[list[Document], list[Reject]]:
        if not documents:
            return documents, rejects
        words = id_words(d.doc_id for d in documents)
        at = self.stored.find(words)
        again = (at >= 0) & self.seen[at] if len(self.seen) else np.zeros(len(at), bool)
        again |= self.new.find(words) >= 0
        fresh = [d for d, bad in zip(documents, again, strict=True) if not bad]
        rejects += [
            d.rejected("duplicate id, first in an earlier part of the source")
            for d, bad in zip(documents, again, strict=True)
            if bad
        ]
        self.seen[at[(at >= 0) & ~again]] = True
        self.new.add(words[(at < 0) & ~again])
        return fresh, rejects

    def _refuse_if_mostly_bad(self, window: _Window, rejects: list[Reject]) -> None:
        bad = {r.number for r in rejects}
        early = (
            [r.number in bad for r in window[:_EARLY]] if self.report.rows <= len(window) else []
        )
        count, rows = len(rejects), len(window)
        if len(window) < self.documents.window_rows:  # a short rest says little by itself
            count, rows = count + self.report.rejected, self.report.rows
        if sum(early) * 2 > len(early) or count * 2 > rows:
            reasons = Counter(r.reason for r in rejects).most_common(3)
            shown = "; ".join(f"{reason} ({count})" for reason, count in reasons)
            raise InputError(
                f"{count} of {rows} rows are bad: {shown}. Nothing of this window "
                "was written. Check the source's format and its `columns`."
            )

    def _write_rejects(self, rejects: list[Reject]) -> None:
        self.report.rejected += len(rejects)
        self.report.reasons.update(r.reason.partition(",")[0] for r in rejects)
        named = [str(r.id) for r in rejects if r.id]
        self.hidden += len(rejects) - len(named)
        if named and len(self.stored):
            at = self.stored.find(id_words(named))
            self.faulty[at[at >= 0]] = True
        write_rejects(self.database, rejects, self.source_fp, self.started_at)

    def _changed(self, documents: list[Document]) -> list[Document]:
        if not documents:
            return []
        at = self.stored.find(id_words(d.doc_id for d in documents))
        known = at >= 0
        hashes = hash_values([d.row_hash for d in documents])
        same = known.copy()
        same[known] = self.stored.values(at[known]) == hashes[known]
        self.report.unchanged += int(same.sum())
        self.report.updated += int((known & ~same).sum())
        self.report.inserted += int((~known).sum())
        return [d for d, unchanged in zip(documents, same, strict=True) if not unchanged]

    def _write(self, documents: list[Document]) -> None:
        """Encode longest first (little padding, memory peaks at once), commit as time passes.

        Whatever ends it early, what was encoded until then is committed, too.
        """
        documents.sort(key=lambda d: len(d.text), reverse=True)
        waiting: list[tuple[list[Document], NDArray[np.float32]]] = []
        last_commit = time.monotonic()
        shares = shares_of(d.text for d in documents)
        step = getattr(self.encoder, "texts_at_once", _STEP)
        try:
            for first, last in spans(map(_weight, documents)):  # at most so much in one commit
                for start in range(first, last, step):
                    part = documents[start : min(start + step, last)]
                    waiting.append((part, self._vectors(part)))
                    done = start + len(part)
                    if done == last or time.monotonic() - last_commit >= self.commit_seconds:
                        self.behind.call(self._commit, waiting)
                        waiting, last_commit = [], time.monotonic()
                    self.progress(Status("encode", done, len(documents), shares[done - 1]))
        finally:
            self.behind.call(self._commit, waiting)

    def _vectors(self, documents: list[Document]) -> NDArray[np.float32]:
        if self.encoder is None:
            return np.stack([np.asarray(d.vector, np.float32) for d in documents])
        return self.encoder.encode_documents([d.text for d in documents])

    def _commit(self, waiting: list[tuple[list[Document], NDArray[np.float32]]]) -> None:
        """Commit what is waiting, and let go of it."""
        if not waiting:
            return
        documents = [d for part, _ in waiting for d in part]
        vectors = np.concatenate([v for _, v in waiting])
        waiting.clear()  # whoever called does not look at it any more
        data = table_of(documents, vectors, self.types)
        own = self.column
        data = data.rename_columns([own if n == "vector" else n for n in data.column_names])
        name = self.documents.table
        fingerprint = self.encoder.fingerprint if self.encoder else "supplied"
        schema = marked_schema(data.schema, fingerprint, own)
        self.database.ensure(name, schema, needs=[*DOCUMENTS.names, own])
        table = self.database.add_columns(name, list(data.schema))
        data = column_fields(table.schema, data)
        # What a racing ingest has stored meanwhile is not written again: rows that are rewritten
        # leave their terms in the FTS index's statistics.
        other = "target.row_hash <> source.row_hash"
        self.database.merge(name, data, data.schema, update=other)

    def delete_missing(self) -> None:
        """Delete the stored rows that the source no longer has.

        A row that is faulty today did not leave: what is stored of it stays. Nothing is deleted if
        a reject has no id, for it may be any row. Raises InputError beyond `delete_limit`.
        """
        name, limit = self.documents.table, self.documents.delete_limit
        self.report.kept = int((self.faulty & ~self.seen).sum())
        if self.hidden:
            log.warning(
                "nothing was deleted: %d rejected rows of the source have no id that could be "
                "read, and each stored row that is not in the source may be one of them",
                self.hidden,
            )
            return
        gone: list[str] = []
        for batch in self.database.stream(name, columns=["doc_id"]):
            ids = batch.column("doc_id").to_pylist()
            at = self.stored.find(id_words(ids))
            left = ~self.seen & ~self.faulty
            gone += [i for i, p in zip(ids, at, strict=True) if p >= 0 and left[p]]
        if len(gone) > max(_FEW_GONE, limit * len(self.stored)):
            raise InputError(
                f"{len(gone)} of {len(self.stored)} stored documents are not in the source, more "
                f"than documents.delete_limit ({limit}) allows: nothing was deleted. Check the "
                "source; if they are to go, raise documents.delete_limit for this ingest"
            )
        for start in range(0, len(gone), 10_000):
            self.database.delete(name, one_of("doc_id", gone[start : start + 10_000]))
        self.report.deleted = len(gone)

    def finish(self, metric: str) -> None:
        """Bring the indexes up to date, forget mended rejects, move the tag `ready`."""
        name = self.documents.table
        if self.database.open(name) is None:
            raise InputError("the source has no usable rows; nothing was written")
        of_source = equals("source_fp", self.source_fp)
        self.database.delete("rejects", of_source & (col("rejected_at") < lit(self.started_at)))
        self.report.version = _finish(self.database, self.documents, self.column, metric)


def _weight(document: Document) -> int:
    """How much of a commit the document takes, in characters and bytes."""
    return len(document.text) + weight(document.ours) + weight(document.extra)
