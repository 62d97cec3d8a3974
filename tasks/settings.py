"""From the config to the library's own settings, each made once per process."""

from __future__ import annotations

from functools import lru_cache

from configs.schema import Config, Encoder, Search
from reranking.corpus.corpus import Corpus, check_filter, encoder_mark, pin_foreign, pin_managed
from reranking.corpus.indexes import IndexSettings, vector_index
from reranking.corpus.ingest import IngestSettings
from reranking.corpus.queries import QuerySet
from reranking.corpus.takeover import check_stored_texts, take_over
from reranking.corpus.vector_columns import need_complete
from reranking.errors import ConfigError, InputError
from reranking.runs.given_ranking import GivenRanking, read_given_ranking
from reranking.scoring.crossencoder import CrossEncoderModel, find_cross_encoder
from reranking.scoring.encoder import SentenceEncoder
from reranking.sources.open import read_ranking, source_fingerprint
from reranking.store import Database
from reranking.upkeep.columns import column_in_use


def encoder_of(config: Config) -> SentenceEncoder | None:
    """The configured encoder, None where documents and queries bring their vectors."""
    given = config.documents.encoder
    return None if given is None else _encoder(given)


@lru_cache(maxsize=2)
def _encoder(settings: Encoder) -> SentenceEncoder:
    return SentenceEncoder(settings)


def refresh_encoder(config: Config) -> None:
    """Let go of an encoder whose files were changed since this process first saw them."""
    encoder = encoder_of(config)
    if encoder is not None and SentenceEncoder(encoder.settings).fingerprint != encoder.fingerprint:
        _encoder.cache_clear()


def cross_encoder_of(config: Config) -> CrossEncoderModel | None:
    """The configured cross-encoder, None where only the first stage is published."""
    if config.rerank is None:
        return None
    return find_cross_encoder(config.rerank)


def refiner_of(config: Config) -> CrossEncoderModel | None:
    """The same cross-encoder in float32, None where nothing is to be refined."""
    if config.rerank is None or config.rerank.refine is None:
        return None
    settings = config.rerank
    if find_cross_encoder(settings).dtype == settings.refine:
        raise ConfigError(
            f"rerank.precision {settings.precision} is float32 on this device, so there is nothing "
            "to refine: leave out rerank.refine, or set rerank.precision to bfloat16"
        )
    return find_cross_encoder(settings.model_copy(update={"precision": settings.refine}))


def ingest_settings(config: Config, database: Database) -> IngestSettings:
    """How the configured documents are taken in."""
    documents = config.documents
    assert documents.source is not None
    column = vector_column(config, database, encoder_of(config))
    default = "{title} {text}" if documents.source.format == "beir" else "{text}"
    return IngestSettings(
        table=documents.table,
        source_fp=source_fingerprint(documents.source, "documents"),
        template=documents.template or default,
        delete_missing=documents.delete_missing,
        window_rows=documents.window_rows,
        commit_seconds=config.execution.commit_seconds,
        indexes=index_settings(config, column),
        vector=column,
    )


def index_settings(config: Config, column: str = "vector") -> IndexSettings:
    """The indexes of the configured documents table, the vector index on one of its columns."""
    vector = config.documents.vector_index
    return IndexSettings(
        fts=config.documents.fts_index.model_dump(),
        vector=None if vector is None else vector.model_dump(),
        metric=config.search.metric or "cosine",
        column=column,
    )


def corpus_of(config: Config, database: Database, encoder: SentenceEncoder | None) -> Corpus:
    """The documents table, pinned; raises where its vectors come from another encoder."""
    documents = config.documents
    scored = None if config.rerank is None else config.rerank.column
    if documents.managed:
        vector = vector_column(config, database, encoder)
        corpus = pin_managed(database, documents.table, scored, vector)
    else:
        corpus = pin_foreign(
            database,
            documents.table,
            id=documents.id,
            text=documents.text,
            vector=documents.vector,
            scored=scored,
            needs_vector=by_vectors(config),
        )
    check_filter(database, corpus, config.search.where)
    if by_vectors(config):
        _check_encoder(database, corpus, encoder)
        need_complete(database, corpus)
    return corpus


def by_vectors(config: Config) -> bool:
    """Whether the configured search has a vector leg."""
    legs = {"vector", "hybrid"} & set(config.search.query_types)
    return config.candidates is None and bool(legs)


def vector_column(config: Config, database: Database, encoder: SentenceEncoder | None) -> str:
    """The managed table's column that ingest and run use; raises where it is not in use."""
    if encoder is not None:
        take_over(database, config.documents.table, encoder)
    fingerprint = "supplied" if encoder is None else encoder.fingerprint
    return column_in_use(database, config.documents.table, fingerprint)


def _check_encoder(database: Database, corpus: Corpus, encoder: SentenceEncoder | None) -> None:
    table = database.need(corpus.table, corpus.version)
    if encoder is None or corpus.vector not in table.schema.names:
        return
    mark = encoder_mark(table, corpus)
    if mark is not None and mark == encoder.former_fingerprint:
        check_stored_texts(
            database, corpus.table, corpus.vector, encoder, corpus.text, corpus.version
        )
        return
    if mark is not None and mark != encoder.fingerprint:
        raise InputError(
            f"the vectors of table {corpus.table!r} come from encoder {mark[:8]}, the config names "
            f"encoder {encoder.fingerprint[:8]}; a query encoded by one cannot search the other's. "
            "Name the old encoder, use another documents.table, or run `rescore reevaluate` to "
            "encode into a new column and compare."
        )


def search_settings(config: Config, database: Database, corpus: Corpus) -> Search:
    """How the legs are searched; the metric is the index's own unless the config names one."""
    search = config.search
    if config.candidates is not None:
        return Search(
            query_types=(config.candidates.query_type,),
            limit=search.limit,
            metric="cosine",
            chunk_queries=search.chunk_queries,
        )
    ann = vector_index(database.need(corpus.table, corpus.version), corpus.vector)
    metric = search.metric or (ann["metric"] if ann else "cosine")
    return search.model_copy(update={"metric": metric})


def ranking_of(
    config: Config, database: Database, corpus: Corpus, queries: QuerySet
) -> GivenRanking | None:
    """The configured ranking, None where the documents are searched."""
    if config.candidates is None:
        return None
    rows = read_ranking(config.candidates.source)
    return read_given_ranking(database, rows, corpus, queries, config.search.limit)
