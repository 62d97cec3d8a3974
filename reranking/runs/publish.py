"""Results appear whole or not at all: one commit makes a run's results table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress

import polars as pl
import pyarrow as pa

from reranking.errors import RuntimeFailure
from reranking.runs.candidates import each_chunk, searched
from reranking.runs.pairs import KEY, distinct_pairs
from reranking.runs.ranking import rank_results
from reranking.runs.refine import above_cuts, with_exact
from reranking.runs.run import Run, need_row, published_epoch
from reranking.runs.run_scores import RunScores
from reranking.schemas import results_schema
from reranking.store import equals

SCORE_FIELDS = [pa.field("_distance", pa.float32()), pa.field("_score", pa.float32())]


def publish_results(
    run: Run,
    scores: RunScores | None,
    exact: RunScores | None = None,
    seen: Callable[[int, pa.Table], None] | None = None,
) -> str:
    """Write the run's results table unless it exists, and return its name.

    `exact` has the float32 scores of a run that refines. `seen` is called with each chunk and its
    candidates while its scores are known, more than once if a commit is tried again.
    Two processes may publish the same run: the table of the first stays.
    """
    published = published_epoch(run.database, run.run_id)
    if published is not None and published >= run.epoch:
        return run.results_table
    need_row(run)  # results that no row tells of would never be found
    fields = [f for f in SCORE_FIELDS if f.name in run.score_columns]
    schema = results_schema(run.run_id, run.epoch, fields)
    if published is not None:
        # A forced run: measures of the results that it replaces hold no longer.
        run.database.delete("metrics", equals("run_id", run.run_id))
    with suppress(FileExistsError):  # a racing process was first
        run.database.publish(
            run.results_table,
            schema,
            lambda: _batches(run, scores, exact, schema, seen),
            replace=published is not None,
        )
    visible = published_epoch(run.database, run.run_id)
    if visible is None or visible < run.epoch:
        raise RuntimeFailure(
            f"table {run.results_table!r} could not be published: start the command again"
        )
    return run.results_table


def run_counts(run: Run, pairs: int | None, scored: int) -> dict[str, int]:
    """The final counts of a published run; `pairs` are counted again where None is given."""
    if pairs is None:
        pairs = sum(len(distinct_pairs(rows)) for _, rows in each_chunk(run))
    marks = searched(run).values()
    return {
        "documents": run.corpus.opened(run.database).count_rows(),
        "queries": run.queries.count,
        "queries_without_hits": sum(int(m["no_hits"]) for m in marks),
        "candidates": run.database.need(run.results_table).count_rows(),
        "pairs": pairs,
        "scored": scored,
        "reused": pairs - scored,
    }


def _batches(
    run: Run,
    scores: RunScores | None,
    exact: RunScores | None,
    schema: pa.Schema,
    seen: Callable[[int, pa.Table], None] | None,
) -> Iterator[pa.RecordBatch]:
    for chunk, candidates in each_chunk(run):
        known = None
        if scores is not None:
            known = _scores_of(run, chunk, candidates, scores, exact).to_arrow()
        if seen is not None:
            seen(chunk, candidates)
        ranked = rank_results(
            candidates,
            known,
            query_types=run.search.query_types,
            limit=run.search.limit,
            top_k=run.top_k,
            return_score=run.return_score,
            activation=run.activation,
            fusion=run.search.fusion,
            blend=run.blend,
        )
        yield from ranked.cast(schema).to_batches()


def _scores_of(
    run: Run, chunk: int, candidates: pa.Table, scores: RunScores, exact: RunScores | None
) -> pl.DataFrame:
    """The scores of the chunk's pairs; raises RuntimeFailure where one is lacking."""
    pairs = distinct_pairs(candidates).select(KEY)
    scores.cover(chunk)
    lacking = len(scores.missing(pairs))
    known = scores.of(pairs)
    if exact is not None and not lacking:
        exact.cover(chunk)
        lacking = len(exact.missing(above_cuts(candidates, known, run, margin=0.0)))
        known = with_exact(known, exact)
    if lacking:
        raise RuntimeFailure(
            f"{lacking} pairs of chunk {chunk} have no score: start the command again"
        )
    return known
