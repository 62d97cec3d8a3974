"""Another model on inputs that exist: which inputs, its vectors, and how it compares.

Nothing is searched for another reranker; another encoder gets vectors of its own first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from reranking.corpus.corpus import Corpus, pin_managed
from reranking.corpus.queries import QuerySet, pin_queries
from reranking.corpus.vector_columns import Encoded, add_vectors, encoder_column, vector_columns
from reranking.errors import ConfigError, MissingResource
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
    """Give every document a vector of the configured encoder; how many had none yet."""
    encoded = _encode(pipeline)
    return 0 if encoded is None else encoded.encoded


def _encode(pipeline: Pipeline) -> Encoded | None:
    """The encoder's complete column; None if the table's only column is its own already."""
    config, encoder = pipeline.config, pipeline.encoder
    if encoder is None or not config.documents.managed or not pipeline.by_vectors:
        return None
    table = config.documents.table
    marks = vector_columns(pipeline.database, table)
    if not marks or list(marks.values()) == [encoder.fingerprint]:
        return None
    with pipeline.executor.watch("documents") as progress:
        return add_vectors(
            pipeline.database,
            config.documents,
            encoder,
            commit_seconds=config.execution.commit_seconds,
            metric=config.search.metric or "cosine",
            progress=progress,
        )


@step("plan-reevaluation", 5)
def plan_again(pipeline: Pipeline) -> Run:
    """Return the run of the configured models on the promoted run's inputs.

    Raises MissingResource if it would have to search for another reason than a new encoder.
    """
    config, database = pipeline.config, pipeline.database
    base = promoted_side(database, config.comparison.against)
    column = _other_column(pipeline, base)
    scored = None if config.rerank is None else config.rerank.column
    table = config.documents.table
    if column is not None:
        corpus = pin_managed(database, table, scored, column)
    else:
        corpus = promoted_corpus(base, table, scored) or pipeline.corpus()
    queries = promoted_queries(database, base, config.queries.query_set)
    run = pipeline.planned(corpus, queries)
    if column is None:
        need_candidates(run)
    return pipeline.begin(run)


def _other_column(pipeline: Pipeline, base: Side | None) -> str | None:
    """The column to search in if the encoder is another than the promoted run's."""
    encoder, config = pipeline.encoder, pipeline.config
    if encoder is None or not config.documents.managed or not pipeline.by_vectors:
        return None
    table = config.documents.table
    column = encoder_column(pipeline.database, table, encoder.fingerprint)
    if base is None:
        return None if column in live_columns(pipeline.database, table) else column
    return None if base.run.stored["encoder"] == encoder.fingerprint else column


@step("compare-with-promoted")
def compare_with_promoted(comparisons: Comparisons) -> dict[str, Any] | None:
    """Compare the run with the promoted one; None if no run is promoted."""
    database, against = comparisons.side.run.database, comparisons.settings.against
    base = promoted_side(database, against)
    return None if base is None else comparisons.against(base).to_dict()


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
