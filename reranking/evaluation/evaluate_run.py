"""Measures of a stored run: per query, query type and stage, into the table `metrics`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from reranking.arrow import frame
from reranking.corpus.queries import read_queries
from reranking.evaluation.measures import evaluate, parse_measures
from reranking.evaluation.summaries import slices, worst_slice
from reranking.judgments.lists import Grades, grades
from reranking.runs.candidates import candidates_of
from reranking.runs.ranking import rank_results
from reranking.runs.run import Run
from reranking.schemas import METRICS
from reranking.store import Database, equals

STAGES = ("first", "reranked")
KEY = ["query_type", "stage", "query_id", "measure"]


@dataclass(frozen=True)
class Evaluation:
    """A run's measures: rows of METRICS, and what did not count."""

    metrics: pa.Table
    judgments_fp: str
    stale: int
    unjudged_queries: int


def evaluate_run(
    database: Database, plan: Run, judgment_list: str, measures: Sequence[str]
) -> Evaluation:
    """The run's measures on a judgment list, computed unless they are stored already."""
    queries = read_queries(database, plan.queries)
    held = grades(database, judgment_list, queries)
    judged = set(held.table.column("query_id").to_pylist())
    stored = _stored(database, plan.run_id, judgment_list, held.fingerprint, measures)
    if stored is None:
        stored = _measure(database, plan, judgment_list, held, measures)
        database.append("metrics", stored)
    unjudged = plan.queries.count - len(judged)
    return Evaluation(stored, held.fingerprint, held.stale, unjudged)


def means(metrics: pa.Table) -> pa.Table:
    """query_type, measure, first, reranked (null where there is no such stage) and queries."""
    found = frame(metrics)
    wide = found.group_by("query_type", "measure", maintain_order=True).agg(
        *(pl.col("value").filter(pl.col("stage") == s).mean().alias(s) for s in STAGES),
        queries=pl.col("query_id").n_unique(),
    )
    return wide.to_arrow()


def slice_means(metrics: pa.Table, queries: pa.Table, primary: str) -> list[dict[str, Any]]:
    """The means per slice of the queries: kind, slice, query_type, measure, first, reranked.

    `worst` marks, per query type, the slice in which the primary measure of the last stage is
    lowest, among those of at least five queries.
    """
    parts = frame(slices(metrics, queries))
    keys = ["kind", "slice", "query_type", "measure"]
    wide = parts.group_by(keys, maintain_order=True).agg(
        *(pl.col("mean").filter(pl.col("stage") == s).first().alias(s) for s in STAGES),
        pl.col("queries").max(),
    )
    marked = set()
    for query_type in parts["query_type"].unique():
        of_type = parts.filter(query_type=query_type)
        stage = max(of_type["stage"].unique(), key=STAGES.index)
        found = worst_slice(of_type.to_arrow(), primary, query_type, stage)
        if found is not None:
            marked.add((found["kind"], found["slice"], query_type, primary))
    rows = wide.to_dicts()
    return [row | {"worst": tuple(row[k] for k in keys) in marked} for row in rows]


def stored_means(database: Database, run_id: str) -> list[dict[str, Any]]:
    """The means of all measures that are stored for a run, by judgment list."""
    rows = database.read("metrics", equals("run_id", run_id))
    if not rows.num_rows:
        return []
    unique = frame(rows).unique([*KEY, "judgment_list", "judgments_fp"], maintain_order=True)
    newest = unique.filter(
        pl.col("judgments_fp") == pl.col("judgments_fp").last().over("judgment_list")
    )
    parts = newest.partition_by("judgment_list", as_dict=True, maintain_order=True)
    return [
        {"judgment_list": key[0], **row}
        for key, part in parts.items()
        for row in means(part.to_arrow()).to_pylist()
    ]


def rankings(database: Database, plan: Run, stage: str) -> Iterator[pa.Table]:
    """The run's rankings at a stage, chunk by chunk: query_id, query_type, rank, doc_id."""
    if stage == "reranked":
        yield database.need(plan.results_table).search().to_arrow()
        return
    for chunk in plan.chunks:
        yield rank_results(
            candidates_of(plan, chunk),
            None,
            query_types=plan.search.query_types,
            limit=plan.search.limit,
        )


def _measure(
    database: Database, plan: Run, judgment_list: str, held: Grades, measures: Sequence[str]
) -> pa.Table:
    query_ids = read_queries(database, plan.queries).column("query_id").to_pylist()
    stages = ["first"] if plan.reranker is None else ["first", "reranked"]
    parts = []
    for stage in stages:
        ranked = pa.concat_tables(rankings(database, plan, stage))
        for query_type in plan.search.query_types:
            view = ranked.filter(pa.compute.equal(ranked["query_type"], query_type))
            values = evaluate(view, held.table, query_ids, measures)
            parts.append(
                frame(values).with_columns(
                    run_id=pl.lit(plan.run_id),
                    judgment_list=pl.lit(judgment_list),
                    judgments_fp=pl.lit(held.fingerprint),
                    query_type=pl.lit(query_type),
                    stage=pl.lit(stage),
                )
            )
    return pl.concat(parts).select(METRICS.names).to_arrow()


def _stored(
    database: Database, run_id: str, judgment_list: str, fingerprint: str, measures: Sequence[str]
) -> pa.Table | None:
    where = equals("run_id", run_id) & equals("judgment_list", judgment_list)
    rows = database.read("metrics", where & equals("judgments_fp", fingerprint))
    if not rows.num_rows:
        return None
    unique = frame(rows).unique(KEY, maintain_order=True)
    wanted = {str(m) for m in parse_measures(measures)}
    if not wanted <= set(unique["measure"].unique().to_list()):
        return None
    return unique.to_arrow()
