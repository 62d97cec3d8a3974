"""Another model on inputs that exist: which inputs, its vectors, and how it compares.

Nothing is searched for another reranker; another encoder gets vectors of its own first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from reranking.corpus.corpus import Corpus, check_filter, pin_managed
from reranking.corpus.queries import QuerySet, pin_queries
from reranking.corpus.vector_columns import encoder_column, vector_columns
from reranking.corpus.vector_tables import encode_beside, pin_beside
from reranking.errors import ConfigError, InputError, MissingResource
from reranking.evaluation.run_comparison import Comparisons
from reranking.evaluation.sides import Side, promoted_side
from reranking.pipeline import Pipeline
from reranking.runs.candidates import searched
from reranking.runs.run import Run
from reranking.steps import step
from reranking.store import Database
from reranking.upkeep.columns import live_columns


@step("encode-new-vectors")
def encode_vectors(pipeline: Pipeline) -> int:
    """Give every document a vector of the configured encoder; how many had none yet.

    They go to a table of their own: `documents` keeps one vector column, that of the encoder in
    use.
    """
    config, encoder = pipeline.config, pipeline.encoder
    if encoder is None or not _is_trial(pipeline):
        return 0
    corpus = pin_managed(pipeline.database, config.documents.table)
    check_filter(pipeline.database, corpus, config.search.where)  # before anything is encoded
    with pipeline.executor.watch("documents") as progress:
        return encode_beside(
            pipeline.database,
            config.documents,
            encoder,
            _read_columns(pipeline),
            commit_seconds=config.execution.commit_seconds,
            metric=config.search.metric or "cosine",
            progress=progress,
        ).encoded


def _is_trial(pipeline: Pipeline) -> bool:
    """Whether the encoder is another than the one whose vectors the documents table has.

    Raises InputError if a trial of an earlier version left its vectors in that table.
    """
    config, encoder = pipeline.config, pipeline.encoder
    if encoder is None or not config.documents.managed or not pipeline.by_vectors:
        return False
    table = config.documents.table
    marks = vector_columns(pipeline.database, table)
    if len(marks) > 1 and encoder.fingerprint in marks.values():
        live = live_columns(pipeline.database, table)
        if encoder_column(pipeline.database, table, encoder.fingerprint) not in live:
            raise InputError(
                f"an earlier trial left the vectors of encoder {encoder.fingerprint[:8]} in table "
                f"{table!r}: run `rescore maintain CONFIG` first, which moves them to a table of "
                "their own"
            )
    return bool(marks) and encoder.fingerprint not in marks.values()


def _read_columns(pipeline: Pipeline) -> list[str]:
    """The columns that the vector leg reads beside ids and vectors."""
    rerank = pipeline.config.rerank
    scored = [] if rerank is None or rerank.column in (None, "text") else [rerank.column]
    return [*pipeline.config.search.where, *(c for c in scored if c is not None)]


@step("plan-trial", 5)
def plan_trial(pipeline: Pipeline) -> Run:
    """Return the run of the configured models on documents and queries as they are.

    An encoder on trial searches its own table of vectors, which `encode_vectors` has filled.
    """
    config, encoder = pipeline.config, pipeline.encoder
    if encoder is None or not _is_trial(pipeline):
        return pipeline.plan()
    scored = None if config.rerank is None else config.rerank.column
    corpus = pin_managed(pipeline.database, config.documents.table, scored)
    corpus = pin_beside(pipeline.database, corpus, encoder.fingerprint, _read_columns(pipeline))
    queries = pin_queries(pipeline.database, config.queries.query_set)
    return pipeline.begin(pipeline.planned(corpus, queries))


def documents_to_encode(pipeline: Pipeline) -> int:
    """Return how many documents an encoder on trial would have to encode at most; 0 without one."""
    if not _is_trial(pipeline):
        return 0
    corpus = pin_managed(pipeline.database, pipeline.config.documents.table)
    return int(corpus.opened(pipeline.database).count_rows())


@step("plan-reevaluation", 5)
def plan_again(pipeline: Pipeline) -> Run:
    """Return the run of the configured models on the promoted run's inputs.

    Raises MissingResource if it would have to search for another reason than a new encoder.
    """
    config, database = pipeline.config, pipeline.database
    base = promoted_side(database, config.comparison.against)
    scored = None if config.rerank is None else config.rerank.column
    table = config.documents.table
    anew = _searches_anew(pipeline, base)
    if anew and pipeline.encoder is not None:
        fingerprint = pipeline.encoder.fingerprint
        if _is_trial(pipeline):
            corpus = pin_managed(database, table, scored)
            corpus = pin_beside(database, corpus, fingerprint, _read_columns(pipeline))
        else:
            corpus = pin_managed(database, table, scored, pipeline.vector_column)
    else:
        corpus = promoted_corpus(base, table, scored) or pipeline.corpus()
    queries = promoted_queries(database, base, config.queries.query_set)
    run = pipeline.planned(corpus, queries, measure=anew)
    if not anew:
        need_candidates(run)
    return pipeline.begin(run)


def _searches_anew(pipeline: Pipeline, base: Side | None) -> bool:
    """Whether the encoder is another than the promoted run's, or on trial if none is promoted."""
    encoder, documents = pipeline.encoder, pipeline.config.documents
    if encoder is None or not documents.managed or not pipeline.by_vectors:
        return False
    if base is None:
        return _is_trial(pipeline)
    return bool(base.run.stored["encoder"] != encoder.fingerprint)


@step("compare-with-promoted")
def compare_with_promoted(comparisons: Comparisons) -> dict[str, Any] | None:
    """Compare the run with the promoted one; None if no run is promoted."""
    database, against = comparisons.side.run.database, comparisons.settings.against
    base = promoted_side(database, against)
    return None if base is None else comparisons.told(base)


def promoted_corpus(base: Side | None, table: str, scored: str | None) -> Corpus | None:
    """Return the documents as the promoted run saw them; None if it saw another table.

    `scored` is the column to score, None is the text that is searched.
    """
    if base is None or base.run.corpus.table != table:
        return None
    corpus = base.run.corpus
    column = scored or corpus.text
    stored = "text_hash" if corpus.managed and column == "text" else None
    return replace(corpus, scored=column, hash_column=stored)


def promoted_queries(database: Database, base: Side | None, query_set: str) -> QuerySet:
    """Return the queries as the promoted run saw them, else as they are."""
    if base is not None and base.run.queries.name == query_set:
        return base.run.queries
    return pin_queries(database, query_set)


def need_candidates(run: Run) -> None:
    """Raise MissingResource if a chunk was not searched yet: another model needs no search."""
    missing = set(run.chunks) - set(searched(run))
    if missing and not run.finished:
        raise MissingResource(
            f"{len(missing)} of {len(run.chunks)} chunks have no stored candidates for this "
            "search: its limit, filter, query set, query types or documents are not those of a "
            "stored run. Leave the search as it was, or start `rescore run` with this config"
        )


@step("compare-fingerprints")
def changed_models(pipeline: Pipeline) -> list[dict[str, Any]]:
    """Return the models whose fingerprint is not the promoted run's: kind, name, before, now.

    No weights are loaded to know. Raises MissingResource if no run is promoted.
    """
    name = pipeline.config.comparison.against
    if name == "first":
        raise ConfigError("watching needs comparison.against to name a promoted run, not `first`")
    base = promoted_side(Database(pipeline.config.database, must_exist=True), name)
    if base is None:
        raise MissingResource(
            f"no run is promoted as {name!r}: there is nothing to watch against. Name one with "
            f"`rescore promote RUN_ID --as {name}`"
        )
    encoder, reranker = pipeline.encoder, pipeline.reranker
    configured = [
        (
            "encoder",
            None if encoder is None else encoder.settings.model,
            base.run.stored["encoder"],
            None if encoder is None else encoder.fingerprint,
        ),
        (
            "reranker",
            None if reranker is None else reranker.name,
            base.run.stored["reranker"],
            None if reranker is None else reranker.fingerprint.hex(),
        ),
    ]
    return [
        {"kind": kind, "name": name or "none", "before": before, "now": now}
        for kind, name, before, now in configured
        if before != now
    ]
