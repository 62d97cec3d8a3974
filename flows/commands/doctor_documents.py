"""What doctor looks at in the documents: everything that the first minute of a run would find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reranking.errors import InputError, MissingPrerequisite, RescoreError

if TYPE_CHECKING:
    from configs.schema import Config
    from reranking.corpus.corpus import Corpus
    from reranking.store import Database

_LATER = "documents come first"


class DocumentsHealth:
    """Looks at the documents of a config; each look says what is there or raises what is wrong."""

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def looks(self) -> list[tuple[str, Callable[[], str]]]:
        """What there is to look at, in the order in which a run would meet it."""
        later = [
            ("ids", self.ids),
            ("texts and vectors", self.texts),
            ("indexes", self.indexes),
            ("encoder", self.encoder),
            ("table for consumers", self.consumers),
        ]
        return [("documents", self.documents), *((name, self._after(look)) for name, look in later)]

    def _after(self, look: Callable[[], str]) -> Callable[[], str]:
        """The look, unless the documents cannot be read: that is told once."""

        def guarded() -> str:
            if self._waits:
                return "not ingested yet"
            try:
                _ = self.corpus
            except RescoreError:
                return _LATER
            return look()

        return guarded

    @cached_property
    def _waits(self) -> bool:
        """Whether an ingest comes first."""
        from reranking.store import Database

        place, documents = self.config.database, self.config.documents
        if documents.source is None:
            return False
        there = "://" in place or Path(place).is_dir()
        return not there or Database(place).open(documents.table) is None

    @cached_property
    def database(self) -> Database:
        """The database that the documents are in; doctor makes none."""
        from reranking.store import Database

        return Database(self.config.documents.database or self.config.database, must_exist=True)

    @cached_property
    def corpus(self) -> Corpus:
        """The documents as a run would pin them."""
        from reranking.corpus.corpus import check_filter
        from reranking.corpus.foreign import pin_foreign
        from reranking.pipeline import Pipeline

        documents = self.config.documents
        if documents.managed:
            return Pipeline(self.config).corpus()
        scored = None if self.config.rerank is None else self.config.rerank.column
        by_vectors = Pipeline(self.config).by_vectors
        corpus = pin_foreign(self.database, documents, scored=scored, needs_vector=by_vectors)
        check_filter(self.database, corpus, self.config.search.where)
        return corpus

    @property
    def table(self) -> Any:
        """The documents table at that version."""
        return self.corpus.opened(self.database)

    def documents(self) -> str:
        """How many there are, and at which version."""
        if self._waits:
            return "not ingested yet: `rescore run` or `rescore ingest` does it"
        corpus, given = self.corpus, self.config.documents.version
        newest = int(self.database.need(corpus.table).version)
        version = f"version {corpus.version}"
        if corpus.version != newest:
            why = "as documents.version says" if given is not None else "of the last whole ingest"
            version += f" {why}; the newest is {newest}"
        place = f" in {self.database.uri}" if self.config.documents.database else ""
        return f"{self.table.count_rows():,} documents in {corpus.table!r}{place}, {version}"

    def ids(self) -> str:
        """Whether each id stands once."""
        from reranking.corpus.corpus import content_digest
        from reranking.corpus.left_out import older_rows

        corpus = self.corpus
        _, rows = content_digest(self.database, corpus, {})
        older = len(older_rows(self.database, corpus))
        left_out = f"; {older:,} rows are older than another of their id" if older else ""
        return f"{rows:,} ids, each once{left_out}"

    def texts(self) -> str:
        """Documents that no search, or only a search by words, finds."""
        from reranking.corpus.foreign import look_through

        if self.corpus.managed:
            return "whole: an ingest stores no other"
        seen = look_through(self.database, self.corpus)
        said = f"{seen['rejected']:,} rows without text are left out" if seen["rejected"] else ""
        if seen["without_vector"]:
            said += (
                "; " * bool(said) + f"{seen['without_vector']:,} have no vector: words find them"
            )
        return said or "every row has a text and a vector"

    def indexes(self) -> str:
        """The table's indexes, and the rows that they lack."""
        from reranking.corpus.fields import is_index_of
        from reranking.corpus.indexes import need_fts, unindexed
        from reranking.pipeline import Pipeline

        corpus, table = self.corpus, self.corpus.opened(self.database)
        legs = self.config.search.legs if self.config.candidates is None else ()
        if "fts" in legs:
            need_fts(table, corpus.table, corpus.text)
        entries = table.list_indices()
        said = [f"{e.index_type} on {', '.join(e.columns)}" for e in entries]
        if "vector" in legs and not any(is_index_of(e.columns, corpus.vector) for e in entries):
            said.append(f"none on {corpus.vector}: searched exactly")
        if Pipeline(self.config).by_vectors and self.config.search.metric:
            said.append(f"metric {self.config.search.metric}")
        left = unindexed(table)
        if left:
            lacking = ", ".join(f"{name} lacks {rows:,}" for name, rows in left.items())
            said.append(f"{lacking} rows, which are scanned: `table.optimize()` takes them in")
        return "; ".join(said) or "none"

    def encoder(self) -> str:
        """Whether queries get vectors of the model that made the documents'."""
        from reranking.corpus.foreign import stated_encoder_of
        from reranking.corpus.known_encoder import check_mark, check_vectors
        from reranking.forecast import queries_asked
        from reranking.pipeline import Pipeline
        from reranking.scoring.encoder import SentenceEncoder

        pipeline, documents = Pipeline(self.config), self.config.documents
        if not pipeline.by_vectors:
            return "not needed: nothing is searched by vectors"
        try:
            queries = queries_asked(pipeline)
        except RescoreError:
            return "queries come first"
        given = "vector" in queries.column_names
        lacking = queries.column("vector").null_count if given else queries.num_rows
        try:
            own = None if documents.encoder is None else SentenceEncoder(documents.encoder)
        except RescoreError:
            return "models come first"
        if own is None and lacking and not documents.managed:
            own = stated_encoder_of(self.database, documents)
        if own is None:
            if lacking:
                raise InputError(
                    f"{lacking:,} queries have no vector and the config names no documents.encoder"
                )
            return "none: queries bring their vectors"
        check_mark(self.database, self.corpus, own)
        if not documents.managed:
            check_vectors(self.database, self.corpus, own, own.settings.model)
            return f"{own.settings.model}: stored texts, encoded again, agree with their vectors"
        return f"{own.settings.model} made the stored vectors"

    def consumers(self) -> str:
        """Whether the results may be published where the config says."""
        from reranking.runs.consumers import check_columns, check_owner
        from reranking.store import Database

        wanted = self.config.results
        if wanted.table is None:
            return "none: results.publish names no table"
        check_columns(self.database, self.corpus, wanted)
        place = wanted.place or self.config.database
        if "://" not in place:
            need_writable(Path(place))
            if not Path(place).is_dir():
                return f"{wanted.table} in {place}, which will be made"
        other = self.config.documents.database
        as_run = replace(self.corpus, home=None if other == self.config.database else other)
        check_owner(Database(place), wanted, self.config.queries.query_set, as_run)
        return f"{wanted.table} in {place}"


def need_writable(folder: Path) -> None:
    """Raise MissingPrerequisite if this user may not write there; nothing is left behind."""
    import tempfile

    from reranking.files import nearest_folder

    place = nearest_folder(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".rescore-doctor."):
            pass
    except OSError as error:
        raise MissingPrerequisite(f"{place} cannot be written: {error}") from error
