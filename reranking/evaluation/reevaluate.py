"""Another model on inputs that are there: which inputs, and that nothing has to be searched."""

from __future__ import annotations

from dataclasses import replace

from reranking.corpus.corpus import Corpus, pin_managed
from reranking.corpus.queries import QuerySet, pin_queries
from reranking.errors import MissingResource
from reranking.evaluation.compare_run import FIRST, Party, party
from reranking.runs.candidates import searched
from reranking.runs.promotion import promoted_run
from reranking.runs.run import Run
from reranking.store import Database


def promoted(database: Database, name: str) -> Party | None:
    """The run that has the name; None where no run has it."""
    found = promoted_run(database, name) if name != FIRST else None
    return None if found is None else party(database, name)


def promoted_corpus(base: Party | None, table: str, scored: str | None) -> Corpus | None:
    """The documents as the promoted run saw them, with the column to score; None if it saw others.

    `scored` None is the text that is searched.
    """
    if base is None or base.plan.corpus.table != table:
        return None
    corpus = base.plan.corpus
    column = scored or corpus.text
    stored = "text_hash" if corpus.managed and column == "text" else None
    return replace(corpus, scored=column, hash_column=stored)


def promoted_queries(database: Database, base: Party | None, query_set: str) -> QuerySet:
    """The queries as the promoted run saw them, else as they are."""
    if base is not None and base.plan.queries.name == query_set:
        return base.plan.queries
    return pin_queries(database, query_set)


def encoded_corpus(database: Database, table: str, scored: str | None, column: str) -> Corpus:
    """The managed table as it is ready now, searched in another vector column."""
    return pin_managed(database, table, scored, column)


def need_candidates(database: Database, plan: Run) -> None:
    """Raise MissingResource where a chunk was not searched yet: another model needs no search."""
    missing = set(plan.chunks) - set(searched(plan))
    if missing and not plan.finished:
        raise MissingResource(
            f"{len(missing)} of {len(plan.chunks)} chunks have no stored candidates for this "
            "search: its limit, filter, query set, query types or documents are not those of a "
            "run that is there. Leave the search as it was, or start `rescore run` with this config"
        )
