"""Which run the inputs name: planned from digests, begun with its inputs pinned, finished."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version as library_version
from typing import Any

import pyarrow as pa

from configs.blending import Blend, Fusion, metric_fault
from configs.schema import Config, Rerank, Search
from reranking import fingerprints
from reranking.corpus.corpus import Corpus, content_digest
from reranking.corpus.filters import typed_where
from reranking.corpus.indexes import need_fts, vector_index
from reranking.corpus.queries import QuerySet, read_queries
from reranking.errors import ConfigError
from reranking.progress import NOTICE
from reranking.runs.recall import (
    UNMEASURED,
    Audit,
    audit_id,
    measure_recall,
    store_recall,
    stored_recall,
)
from reranking.runs.rows import REFUSED, TABLE, decoded, stored_row, write_row
from reranking.runs.run import Run, need_row, published_epoch, with_versions
from reranking.schemas import RUNS
from reranking.scoring.crossencoder import Reranker
from reranking.store import Database

log = logging.getLogger(__name__)

_LIBRARIES = ("lancedb", "pyarrow", "polars", "torch", "transformers", "sentence-transformers")


def resolved_search(config: Config, database: Database, corpus: Corpus) -> Search:
    """Return the config's search with its metric: the index's own unless the config names one."""
    search = config.search
    if config.candidates is not None:
        return Search(
            query_types=(config.candidates.query_type,),
            limit=search.limit,
            metric="cosine",
            chunk_queries=search.chunk_queries,
        )
    ann = vector_index(corpus.opened_vectors(database), corpus.vector)
    metric = search.metric or (ann["metric"] if ann else "cosine")
    return search.model_copy(update={"metric": metric})


def plan_run(
    database: Database,
    corpus: Corpus,
    queries: QuerySet,
    search: Search,
    *,
    encoder: str | None,
    reranker: Reranker | None,
    rerank: Rerank | None,
    refiner: Reranker | None = None,
    ranking: str | None = None,
    force: bool = False,
    audit: Audit = UNMEASURED,
) -> Run:
    """Return the run that these inputs name: finished already, begun, or new.

    `search` has its metric resolved; `rerank` says what `reranker`'s scores are published as, None
    publishes the first stage. `ranking` names the content of a given ranking, which then stands
    for the search. Nothing is written but what a vector index loses, where `audit` measures it.
    """
    blend = None if rerank is None else rerank.blend
    return_score = "relevance" if rerank is None else rerank.return_score
    top_k = None if rerank is None else rerank.top_k
    if fault := metric_fault(search.metric, search.fusion, blend):
        raise ConfigError(fault)
    content, _ = content_digest(database, corpus, search.where)
    if ranking is None:
        search_inputs = _search_inputs(database, corpus, search, encoder)
    else:
        search_inputs = {"ranking": ranking, "legs": list(search.query_types)}
    search_inputs |= {
        "documents": content,
        "queries": queries.content,
        "chunk_queries": search.chunk_queries,
    }
    search, search_id = _searched_well(database, corpus, queries, search, search_inputs, audit)
    run_id = fingerprints.run_id(
        {
            "search_id": search_id,
            "reranker": None if reranker is None else reranker.fingerprint.hex(),
            "query_types": list(search.query_types),
            "return_score": return_score,
            "activation": None if reranker is None else reranker.activation,
            "top_k": top_k,
            **({} if refiner is None else {"refiner": refiner.fingerprint.hex()}),
            **_joining(search.fusion, blend),
        }
    )
    published = published_epoch(database, run_id)
    epoch = _forced_epoch(database, run_id, published) if force else 0
    return Run(
        database=database,
        run_id=run_id,
        search_id=search_id,
        corpus=corpus,
        documents_content=content,
        queries=queries,
        search=search,
        reranker=None if reranker is None else reranker.fingerprint.hex(),
        return_score=return_score,
        top_k=top_k,
        activation="identity" if reranker is None else reranker.activation,
        epoch=epoch,
        least_epoch=epoch if force else 0,
        finished=published is not None and not force,
        refiner=None if refiner is None else refiner.fingerprint.hex(),
        blend=blend,
    )


def _searched_well(
    database: Database,
    corpus: Corpus,
    queries: QuerySet,
    search: Search,
    inputs: dict[str, Any],
    how: Audit,
) -> tuple[Search, str]:
    """The search with the settings by which its index finds enough, and its id."""
    if search.min_recall is None or not inputs.get("ann"):
        return search, fingerprints.search_id(inputs)
    audit = audit_id(inputs, search, how)
    recall = stored = stored_recall(database, audit)
    if recall is None and how.measure:
        recall = measure_recall(
            database,
            corpus,
            read_queries(database, queries),
            search,
            how,
            audit=audit,
            index_type=inputs["ann"]["type"],
        )
    if recall is None:
        return search, fingerprints.search_id(inputs)
    search = recall.applied(search)
    search_id = fingerprints.search_id(inputs | _index_inputs(inputs["ann"], search))
    if stored is None:
        store_recall(database, recall, search_id)
    return search, search_id


def _joining(fusion: Fusion | None, blend: Blend | None) -> dict[str, Any]:
    """What names how scores are joined; nothing if it is as it always was."""
    named = {"fusion": fusion and fusion.named, "blend": blend and blend.named}
    return {name: value for name, value in named.items() if value}


def _search_inputs(
    database: Database, corpus: Corpus, search: Search, encoder: str | None
) -> dict[str, Any]:
    table = corpus.opened(database)
    inputs: dict[str, Any] = {
        "legs": sorted(search.legs),
        "limit": search.limit,
        "where": dict(search.where),
    }
    typed = typed_where(search.where, table.schema)
    if typed != inputs["where"]:  # earlier versions compared these otherwise
        inputs["where"] = typed
    if "vector" in search.legs:
        inputs |= {
            "encoder": encoder,
            "metric": search.metric,
            **_index_inputs(vector_index(corpus.opened_vectors(database), corpus.vector), search),
        }
    if "fts" in search.legs:
        inputs["fts"] = need_fts(table, corpus.table, corpus.text)
    return inputs


def _index_inputs(index: dict[str, Any] | None, search: Search) -> dict[str, Any]:
    """What names how the vector index is searched; earlier versions knew no `ef`."""
    if search.bypass_vector_index:
        return {"ann": None, "nprobes": None, "refine_factor": None}
    named = {"ann": index, "nprobes": search.nprobes, "refine_factor": search.refine_factor}
    return named if search.ef is None else named | {"ef": search.ef}


def _forced_epoch(database: Database, run_id: str, published: int | None) -> int:
    """The epoch that a forced run writes: an unfinished forced one goes on, else the next."""
    rows = database.read(TABLE, columns=["run_id", "epoch"]).to_pylist()
    stored = next((r["epoch"] for r in rows if r["run_id"] == run_id), 0)
    if stored > (published or 0):
        return int(stored)
    return 1 + max((int(r["epoch"]) for r in rows), default=0)


def begin_run(run: Run, description: Mapping[str, Any], started_at: datetime | None = None) -> Run:
    """Pin the run's inputs by tags and write its row; the run with the versions that are pinned.

    A run that was begun before keeps its start and, while its tags stand, the versions it pinned:
    other versions of the same content would do as well, but only tagged ones are never pruned.
    """
    database = run.database
    stored = stored_row(database, run.run_id)
    if stored is not None and (kept := _still_pinned(run, stored)) is not None:
        if int(stored["epoch"]) >= run.epoch:
            sign = None if stored["started_at"] == started_at else _last_sign(stored)
            return replace(kept, row=decoded(_at_work(run, stored)), last_sign=sign)
        run = kept
    started_at = datetime.now(UTC)
    tag = tag_of(run.run_id)
    for table, version in _pinned_tables(run):
        database.tag(table, tag, version)
    database.tag("queries", tag, run.queries.version)
    row = {
        "run_id": run.run_id,
        "search_id": run.search_id,
        "status": "running",
        "epoch": run.epoch,
        "query_set": run.queries.name,
        "query_types": list(run.search.query_types),
        "queries_version": run.queries.version,
        "queries_content": run.queries.content,
        "documents_table": run.corpus.table,
        "documents_version": run.corpus.version,
        "documents_content": run.documents_content,
        "reranker": run.reranker,
        "refiner": run.refiner,
        "libraries_json": json.dumps({name: library_version(name) for name in _LIBRARIES}),
        "plan_json": run.plan_json(),
        "counts_json": "{}",
        "seconds_json": "{}",
        "failure": None,
        "started_at": started_at if stored is None else stored["started_at"],
        **description,
    }
    write_row(database, row, update=stored is not None)
    if stored is None:
        return begin_run(run, description, started_at)  # a racing process may have been first
    return replace(run, row=decoded(row))


def _last_sign(stored: Mapping[str, Any]) -> datetime | None:
    """When whoever began the run was last seen at work on it; None if it ended in order."""
    if stored["status"] == "done":
        return None
    ended = stored["status"] != "running"
    seen = stored["started_at"], stored.get("committed_at")
    sign: datetime = max(time for time in seen if time is not None)
    log.log(
        NOTICE,
        "run %s was begun at %s and is not finished (%s): what is stored of it is kept",
        stored["run_id"][:8],
        f"{stored['started_at']:%Y-%m-%d %H:%M:%S} UTC",
        stored.get("failure") or stored["status"]
        if ended
        else f"it was last seen at work at {sign:%H:%M:%S} UTC",
    )
    return None if ended else sign


def _at_work(run: Run, stored: Mapping[str, Any]) -> dict[str, Any]:
    """The stored row of a run that goes on: what ended it before is over."""
    row = dict(stored)
    if row["status"] in ("failed", "stopped", "to be continued"):
        row |= {"status": "running", "failure": None}
        write_row(run.database, row)
    return row


def note_end(run: Run, status: str, reason: str) -> None:
    """Store how work on an unfinished run ended, as far as its process can say so."""
    row = stored_row(run.database, run.run_id)
    if row is not None and row["status"] != "done":
        write_row(run.database, row | {"status": status, "failure": reason})


def note_gates(run: Run, failed: int) -> None:
    """Store how many conditions refuse a finished run: later runs are not compared with it."""
    row = need_row(run)
    counts = json.loads(row["counts_json"])
    if counts.pop(REFUSED, 0) != failed:
        counts |= {REFUSED: failed} if failed else {}
        write_row(run.database, row | {"counts_json": json.dumps(counts)})


def note_commit(run: Run) -> None:
    """Store that the run commits now; its row is not made anew where somebody dropped it."""
    if run.database.open(TABLE) is None:
        return
    marks = pa.schema([RUNS.field(name) for name in ("run_id", "committed_at")])
    row = {"run_id": run.run_id, "committed_at": datetime.now(UTC)}
    run.database.merge(TABLE, pa.Table.from_pylist([row], marks), marks, insert=False)


def _pinned_tables(run: Run) -> list[tuple[str, int]]:
    """The tables of documents and vectors that are ours to tag, at the versions the run reads."""
    corpus = run.corpus
    tables = [(corpus.table, corpus.version)] if corpus.managed else []
    if corpus.vectors_table is not None and corpus.vectors_version is not None:
        tables.append((corpus.vectors_table, corpus.vectors_version))
    return tables


def tag_of(run_id: str) -> str:
    """Return the tag on the versions of documents and queries that a run reads."""
    return f"run-{run_id}"


def _still_pinned(run: Run, stored: Mapping[str, Any]) -> Run | None:
    """The run at the versions that the stored row names, None if no tag holds them.

    A table that was dropped and made again has lost its tags: its versions are other ones.
    """
    documents, queries = int(stored["documents_version"]), int(stored["queries_version"])
    tag = tag_of(run.run_id)
    if run.database.tagged("queries", tag) != queries:
        return None
    before = Run.of_row(run.database, decoded(stored))
    if (before.corpus.vectors_table is None) != (run.corpus.vectors_table is None):
        return None
    if not run.corpus.managed and documents != run.corpus.version:
        return None
    pinned = _pinned_tables(before)
    if any(run.database.tagged(table, tag) != version for table, version in pinned):
        return None
    kept = with_versions(run, documents, queries)
    vectors = before.corpus.vectors_version
    return replace(kept, corpus=replace(kept.corpus, vectors_version=vectors))


def finish_run(
    run: Run, counts: Mapping[str, float], seconds: Mapping[str, float], score_path: str | None
) -> None:
    """Mark the run as done, with its counts and times."""
    row = need_row(run)
    row |= {
        "status": "done",
        "failure": None,
        "counts_json": json.dumps(dict(counts)),
        "seconds_json": json.dumps({k: round(v, 3) for k, v in seconds.items()}),
        "score_path": score_path or row["score_path"],
        "finished_at": datetime.now(UTC),
    }
    write_row(run.database, row)
