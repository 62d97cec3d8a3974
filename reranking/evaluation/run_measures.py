"""Measures of stored runs: per query, query type and stage, into the table `metrics`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from reranking.arrow import frame
from reranking.errors import MissingResource
from reranking.evaluation.measures import evaluate, parse_measures
from reranking.evaluation.summaries import slice_measures, worst_slice
from reranking.judgments.lists import Grades, grades
from reranking.runs.candidates import each_chunk
from reranking.runs.ranking import rank_results
from reranking.runs.run import Run
from reranking.runs.settings import changes
from reranking.schemas import METRICS
from reranking.store import equals

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
    run: Run, judgment_list: str, measures: Sequence[str], *, ignore_identical_ids: bool = False
) -> Evaluation:
    """Return the run's measures on a judgment list, computed unless they are stored already.

    `ignore_identical_ids`: as in `measures.evaluate`; such measures are stored beside the others.
    """
    valid = grades(run.database, judgment_list, run.query_rows, ignore_identical_ids)
    judged = set(valid.table.column("query_id").to_pylist())
    metrics = _stored(run, judgment_list, valid.fingerprint, measures)
    if metrics is None:
        metrics = _measure(run, judgment_list, valid, measures, ignore_identical_ids)
        run.database.append("metrics", metrics)
    unjudged = run.query_rows.num_rows - len(judged)
    return Evaluation(metrics, valid.fingerprint, valid.stale, unjudged)


def means(metrics: pa.Table) -> pa.Table:
    """Return query_type, measure, first, reranked (null if the run lacks the stage) and queries."""
    rows = frame(metrics)
    wide = rows.group_by("query_type", "measure", maintain_order=True).agg(
        *(pl.col("value").filter(pl.col("stage") == s).mean().alias(s) for s in STAGES),
        queries=pl.col("query_id").n_unique(),
    )
    return wide.to_arrow()


def slice_means(metrics: pa.Table, queries: pa.Table, primary: str) -> list[dict[str, Any]]:
    """Return the means per slice of the queries: kind, slice, query_type, measure, first, reranked.

    `worst` marks, per query type, the slice in which the primary measure of the last stage is
    lowest, among those of at least five queries.
    """
    parts = frame(slice_measures(metrics, queries))
    keys = ["kind", "slice", "query_type", "measure"]
    wide = parts.group_by(keys, maintain_order=True).agg(
        *(pl.col("mean").filter(pl.col("stage") == s).first().alias(s) for s in STAGES),
        pl.col("queries").max(),
    )
    marked = set()
    for query_type in parts["query_type"].unique():
        of_type = parts.filter(query_type=query_type)
        stage = max(of_type["stage"].unique(), key=STAGES.index)
        worst = worst_slice(of_type.to_arrow(), primary, query_type, stage)
        if worst is not None:
            marked.add((worst["kind"], worst["slice"], query_type, primary))
    rows = wide.to_dicts()
    return [row | {"worst": tuple(row[k] for k in keys) in marked} for row in rows]


def stored_means(run: Run) -> list[dict[str, Any]]:
    """Return the means of all measures that are stored for a run, by judgment list.

    Of a run of several query sets: on the grades that hold today, for all queries and by set.
    """
    rows = run.database.read("metrics", equals("run_id", run.run_id))
    if not rows.num_rows:
        return []
    unique = frame(rows).unique([*KEY, "judgment_list", "judgments_fp"], maintain_order=True)
    newest = pl.col("judgments_fp").last().over("judgment_list")
    parts = {
        (run.queries.name, str(key[0])): part
        for key, part in unique.filter(pl.col("judgments_fp") == newest)
        .partition_by("judgment_list", as_dict=True, maintain_order=True)
        .items()
    }
    if run.sets:
        parts = dict(_stored_parts(run, unique))
    return [
        {"query_set": query_set, "judgment_list": judgment_list, **row}
        for (query_set, judgment_list), part in parts.items()
        for row in means(part.to_arrow()).to_pylist()
    ]


def _stored_parts(run: Run, rows: pl.DataFrame) -> Iterator[tuple[tuple[str, str], pl.DataFrame]]:
    """The rows of all queries, then of each set; those whose grades are not stored any more lack"""
    for name in (None, *run.sets):
        try:
            own = run if name is None else run.of_set(name)
            judgments = None if own.config is None else own.config.judgments
            if judgments is None:
                continue
            valid = grades(
                run.database,
                judgments.judgment_list,
                own.query_rows,
                judgments.ignore_identical_ids,
            )
        except MissingResource:
            continue
        part = rows.filter(judgment_list=judgments.judgment_list, judgments_fp=valid.fingerprint)
        if part.height:
            yield (name or run.queries.name, judgments.judgment_list), part


def rankings(run: Run, stage: str) -> Iterator[pa.Table]:
    """Yield the run's rankings at a stage, chunk by chunk: query_id, query_type, rank, doc_id."""
    if stage == "reranked":
        yield run.results()
        return
    for _, candidates in each_chunk(run):
        yield rank_results(
            run.only_own(candidates),
            None,
            query_types=run.search.query_types,
            limit=run.search.limit,
            fusion=run.search.fusion,
        )


def history(
    runs: Sequence[Run],
    judgment_list: str,
    measure: str,
    *,
    ignore_identical_ids: bool = False,
    together: bool = False,
) -> list[dict[str, Any]]:
    """Return the measure's means of each run, oldest run first, one row per query type.

    All on the grades that hold today: what an earlier night did not measure is measured now.
    `change` is the difference to the run before it of the same pipeline and query type, of the
    last stage; it is null if the runs do not rest on the same judged queries. `changed` lists what
    was set otherwise than for that run. With `together` all runs are nights of one pipeline.
    """
    rows: list[dict[str, Any]] = []
    before: dict[tuple[str, str], tuple[dict[str, Any], Run]] = {}
    for run in sorted(runs, key=lambda r: r.stored["started_at"]):
        done = evaluate_run(
            run, judgment_list, [measure], ignore_identical_ids=ignore_identical_ids
        )
        for mean in means(done.metrics).to_pylist():
            if mean["measure"] != measure:
                continue
            value = mean["first"] if mean["reranked"] is None else mean["reranked"]
            key = ("" if together else run.stored["pipeline"], mean["query_type"])
            last, night = before.get(key, (None, None))
            same = last is not None and last["judgments"] == done.judgments_fp
            row = {
                "run_id": run.run_id,
                "query_set": run.part or run.queries.name,
                "pipeline": run.stored["pipeline"],
                "started_at": run.stored["started_at"],
                "reranker_model": run.stored["reranker_model"],
                "judgments": done.judgments_fp,
                **mean,
                "value": value,
                "change": value - last["value"] if last is not None and same else None,
                "changed": [] if night is None else changes(night.stored, run.stored),
            }
            before[key] = row, run
            rows.append(row)
    return rows


def _measure(
    run: Run,
    judgment_list: str,
    valid: Grades,
    measures: Sequence[str],
    ignore_identical_ids: bool,
) -> pa.Table:
    query_ids = run.query_rows.column("query_id").to_pylist()
    stages = STAGES[:1] if run.reranker is None else STAGES
    parts = []
    for stage in stages:
        ranked = pa.concat_tables(rankings(run, stage))
        for query_type in run.search.query_types:
            view = ranked.filter(pa.compute.equal(ranked["query_type"], query_type))
            values = evaluate(
                view,
                valid.table,
                query_ids,
                measures,
                ignore_identical_ids=ignore_identical_ids,
            )
            parts.append(
                frame(values).with_columns(
                    run_id=pl.lit(run.run_id),
                    judgment_list=pl.lit(judgment_list),
                    judgments_fp=pl.lit(valid.fingerprint),
                    query_type=pl.lit(query_type),
                    stage=pl.lit(stage),
                )
            )
    return pl.concat(parts).select(METRICS.names).to_arrow()


def _stored(
    run: Run, judgment_list: str, fingerprint: str, measures: Sequence[str]
) -> pa.Table | None:
    where = equals("run_id", run.run_id) & equals("judgment_list", judgment_list)
    rows = run.database.read("metrics", where & equals("judgments_fp", fingerprint))
    if not rows.num_rows:
        return None
    unique = frame(rows).unique(KEY, maintain_order=True)
    wanted = {str(m) for m in parse_measures(measures)}
    if not wanted <= set(unique["measure"].unique().to_list()):
        return None
    return unique.to_arrow()
