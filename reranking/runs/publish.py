"""Results appear whole or not at all: one commit makes a run's results table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress

import polars as pl
import pyarrow as pa

from reranking.arrow import frame
from reranking.corpus.corpus import Corpus, columns_of, string_ids
from reranking.errors import ConfigError, MissingResource, RuntimeFailure
from reranking.fingerprints import canonical
from reranking.runs.candidates import candidates_of, searched
from reranking.runs.pairs import KEY, PairScores, distinct_pairs
from reranking.runs.ranking import rank_results
from reranking.runs.refine import above_cuts, with_exact
from reranking.runs.run import Run, need_row, published_epoch, stored_row
from reranking.schemas import results_schema
from reranking.store import Database, equals

OWNER = b"rescore.owner"
_SCORE_FIELDS = [pa.field("_distance", pa.float32()), pa.field("_score", pa.float32())]
_RESULTS = {*results_schema("", 0, _SCORE_FIELDS).names}


def publish_results(run: Run, scores: PairScores | None, exact: PairScores | None = None) -> str:
    """Write the run's results table unless it exists, and return its name.

    `exact` has the float32 scores of a run that refines.
    Two processes may publish the same run: the table of the first stays.
    """
    published = published_epoch(run.database, run.run_id)
    if published is not None and published >= run.epoch:
        return run.results_table
    need_row(run)  # results that no row tells of would never be found
    fields = [f for f in _SCORE_FIELDS if f.name in run.score_columns]
    schema = results_schema(run.run_id, run.epoch, fields)
    if published is not None:
        # A forced run: measures of the results that it replaces hold no longer.
        run.database.delete("metrics", equals("run_id", run.run_id))
    with suppress(FileExistsError):  # a racing process was first
        run.database.publish(
            run.results_table,
            schema,
            lambda: _batches(run, scores, exact, schema),
            replace=published is not None,
        )
    visible = published_epoch(run.database, run.run_id)
    if visible is None or visible < run.epoch:
        raise RuntimeFailure(
            f"table {run.results_table!r} could not be published: start the command again"
        )
    return run.results_table


def publish_for_consumers(run: Run, name: str, columns: Sequence[str]) -> bool:
    """Replace the table `name` by this run's results plus `columns`; whether that was needed.

    Raises MissingResource where a table of that name was not published by rescore.
    """
    check_owner(run.database, name, run.queries.name, run.corpus.table)
    marks = consumer_marks(run.database, name)
    results = run.database.need(run.results_table)
    wanted = {
        b"rescore.run_id": run.run_id.encode(),
        b"rescore.epoch": results.schema.metadata[b"rescore.epoch"],
        b"rescore.columns": canonical(list(columns)).encode(),
    }
    if marks is not None and {k: marks.get(k) for k in wanted} == wanted:
        return False
    wanted[OWNER] = _owner(run.queries.name, run.corpus.table)
    schema = _consumer_schema(run, results.schema, columns).with_metadata(wanted)

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in run.database.stream(run.results_table):
            yield _with_columns(run, batch, columns, schema)

    try:
        run.database.publish(name, schema, batches, replace=marks is not None)
    except FileExistsError:  # made meanwhile, by a process that publishes too or by somebody else
        return publish_for_consumers(run, name, columns)
    return True


def run_counts(run: Run, pairs: int | None, scored: int) -> dict[str, int]:
    """The final counts of a published run; `pairs` are counted again where None is given."""
    if pairs is None:
        pairs = sum(len(distinct_pairs(candidates_of(run, c))) for c in run.chunks)
    marks = searched(run).values()
    return {
        "queries": run.queries.count,
        "queries_without_hits": sum(int(m["no_hits"]) for m in marks),
        "candidates": run.database.need(run.results_table).count_rows(),
        "pairs": pairs,
        "scored": scored,
        "reused": pairs - scored,
    }


def consumer_marks(database: Database, name: str) -> dict[bytes, bytes] | None:
    """What the table of a stable name says of the run it holds, None if it does not exist.

    Raises MissingResource where a table of that name was not published by rescore.
    """
    table = database.open(name)
    if table is None:
        return None
    marks: dict[bytes, bytes] = table.schema.metadata or {}
    if b"rescore.run_id" not in marks:
        raise MissingResource(
            f"table {name!r} in {database.uri} was made by somebody else and is left as it is: "
            "choose another results.publish, or drop that table"
        )
    return marks


def check_owner(database: Database, name: str, query_set: str, documents: str) -> None:
    """Raise ConfigError if the consumers' table holds results of other queries or documents.

    A table belongs to one query set over one documents table; another limit, filter or model is
    still the same. Tables of earlier versions say it by the run that they hold.
    """
    marks = consumer_marks(database, name)
    if marks is None:
        return
    owner = marks.get(OWNER)
    if owner is None:
        row = stored_row(database, marks[b"rescore.run_id"].decode())
        if row is None:  # the run was forgotten: nobody is left whose results they are
            return
        owner = _owner(row["query_set"], row["documents_table"])
    if owner != _owner(query_set, documents):
        theirs = json.loads(owner)
        raise ConfigError(
            f"results.publish: table {name!r} holds the results of query set {theirs[0]!r} over "
            f"table {theirs[1]!r}, which those of {query_set!r} over {documents!r} would erase. "
            "Choose another name for results.publish, or drop that table"
        )


def _owner(query_set: str, documents: str) -> bytes:
    return canonical([query_set, documents]).encode()


def _batches(
    run: Run,
    scores: PairScores | None,
    exact: PairScores | None,
    schema: pa.Schema,
) -> Iterator[pa.RecordBatch]:
    for chunk in run.chunks:
        candidates = candidates_of(run, chunk)
        known = None
        if scores is not None:
            known = _scores_of(run, chunk, candidates, scores, exact).to_arrow()
        ranked = rank_results(
            candidates,
            known,
            query_types=run.search.query_types,
            limit=run.search.limit,
            top_k=run.top_k,
            return_score=run.return_score,
            activation=run.activation,
        )
        yield from ranked.cast(schema).to_batches()


def _scores_of(
    run: Run, chunk: int, candidates: pa.Table, scores: PairScores, exact: PairScores | None
) -> pl.DataFrame:
    """The scores of the chunk's pairs; raises RuntimeFailure where one is lacking."""
    pairs = distinct_pairs(candidates).select(KEY)
    lacking = len(scores.missing(pairs))
    known = scores.of(pairs)
    if exact is not None and not lacking:
        lacking = len(exact.missing(above_cuts(candidates, known, run, margin=0.0)))
        known = with_exact(known, exact)
    if lacking:
        raise RuntimeFailure(
            f"{lacking} pairs of chunk {chunk} have no score: start the command again"
        )
    return known


def check_columns(database: Database, corpus: Corpus, columns: Sequence[str]) -> None:
    """Raise ConfigError where consumers ask for columns that results cannot carry."""
    documents = corpus.opened(database).schema.names
    possible = ["query_text", *(n for n in documents if n not in _RESULTS)]
    wrong = [c for c in columns if c not in possible]
    if wrong or len(set(columns)) < len(columns):
        raise ConfigError(
            f"results.columns: {wrong or list(columns)} are not columns of the documents that "
            f"results can carry, each once; choose from {possible}"
        )


def _consumer_schema(run: Run, results: pa.Schema, columns: Sequence[str]) -> pa.Schema:
    check_columns(run.database, run.corpus, columns)
    documents = run.corpus.opened(run.database).schema
    fields = [
        pa.field(c, pa.string() if c == "query_text" else documents.field(c).type) for c in columns
    ]
    return pa.schema([*results, *fields])


def _with_columns(
    run: Run,
    batch: pa.RecordBatch,
    columns: Sequence[str],
    schema: pa.Schema,
) -> pa.RecordBatch:
    rows = frame(batch)
    from_documents = [c for c in columns if c != "query_text"]
    if from_documents:
        ids = rows["doc_id"].unique().to_list()
        parts = [
            frame(part.select(from_documents)).with_columns(
                doc_id=pl.Series(string_ids(part.column(run.corpus.id), run.corpus))
            )
            for part in columns_of(run.database, run.corpus, ids, from_documents)
        ]
        rows = rows.join(pl.concat(parts), on="doc_id", how="left", maintain_order="left")
    if "query_text" in columns:
        texts = pl.concat(
            frame(run.chunk_of_queries(c).select(["query_id", "text"])) for c in run.chunks
        ).rename({"text": "query_text"})
        rows = rows.join(texts, on="query_id", how="left", maintain_order="left")
    table = rows.select(schema.names).to_arrow().cast(schema)
    return table.combine_chunks().to_batches()[0]
