"""Ties of stored runs: what equal scores do to their measures, and to a verdict."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from configs.evaluation import ComparisonSettings
from reranking.arrow import frame
from reranking.errors import ConfigError, RuntimeFailure
from reranking.evaluation.array_measures import ArrayMeasure, array_measure
from reranking.evaluation.comparison import Comparison
from reranking.evaluation.measures import parse_primary
from reranking.evaluation.sides import Side
from reranking.evaluation.statistics import compare_paired
from reranking.evaluation.sweep.pool import pool_of
from reranking.evaluation.sweep.settings import Setting, setting_of
from reranking.evaluation.ties import Ties, ties
from reranking.evaluation.verdict import Changed, decide
from reranking.judgments.lists import grades
from reranking.runs.run import Run

log = logging.getLogger(__name__)


def ties_of(
    run: Run, judgment_list: str, primary: str, *, ignore_identical_ids: bool = False
) -> list[dict[str, Any]]:
    """Return what ties do to the primary measure of each query type and stage of a run.

    Empty for a measure that cannot be computed for many rankings at once.
    """
    judged = grades(run.database, judgment_list, run.query_rows, ignore_identical_ids).table
    rows = []
    for stage in ("first",) if run.reranker is None else ("first", "reranked"):
        for query_type in run.search.query_types:
            side = Side(run, stage, "")  # type: ignore[arg-type]
            made = _ties(side, query_type, primary, judged, ignore_identical_ids)
            if made is not None:
                plain = {k: v for k, v in asdict(made).items() if k != "by_query"}
                shown = {"matter": made.matter, "sentence": made.sentence}
                rows.append({"query_type": query_type, "stage": stage, **plain, **shown})
    return rows


def _ties(
    side: Side, query_type: Any, primary: str, judged: pa.Table, ignore_identical_ids: bool
) -> Ties | None:
    """What ties do to one ranking; None if there are none or the measure is not known."""
    known = _measure(primary)
    if known is None or not _has_ties(side, query_type, known[1]):
        return None
    reranked = side.stage == "reranked" and side.run.reranker is not None
    try:
        pool = pool_of(
            side.run, judged, ignore_identical_ids=ignore_identical_ids, reranked=reranked
        )
    except (RuntimeFailure, LookupError) as error:  # measures need results alone
        log.warning("what equal scores do to run %s is unknown: %s", side.run.run_id[:8], error)
        return None
    name = str(parse_primary(primary))
    return ties(pool, _setting(side, query_type), name, *known)


def _measure(primary: str) -> tuple[ArrayMeasure, int | None] | None:
    measure = parse_primary(primary)
    try:
        return array_measure(measure), measure.params.get("cutoff")
    except ConfigError:
        return None


def _setting(side: Side, query_type: Any) -> Setting:
    made = setting_of(side.run, query_type)
    if side.stage == "reranked":
        return made
    return replace(made, reranked=False, blend=None, top_k=None)


def _has_ties(side: Side, query_type: str, cutoff: int | None) -> bool:
    """Whether published scores are equal near the top; a first stage's are not stored."""
    if side.stage != "reranked":
        return query_type == "hybrid"  # a leg's ranks differ, their sums need not
    columns = ["query_id", "query_type", "rank", "_relevance_score"]
    table = side.run.database.need(side.run.results_table)
    rows = frame(table.search().select(columns).limit(None).to_arrow())
    top = rows.filter(query_type=query_type)
    if cutoff is not None:
        top = top.filter(pl.col("rank") <= cutoff + 1)
    return bool(top.select("query_id", "_relevance_score").is_duplicated().any())


def with_ties(
    comparison: Comparison,
    sides: tuple[Side, Side],
    judged: pa.Table,
    rules: ComparisonSettings,
    ignore_identical_ids: bool,
) -> Comparison:
    """Return the comparison with what ties do to it: a verdict that rests on them is withdrawn.

    It rests on them if the same rules, applied to the means over random orders of equal scores,
    say something else.
    """
    row = comparison.primary
    per_query = comparison.primary_values
    graded = judged.select(["query_id", "doc_id", "relevance"])
    graded = graded.filter(pc.is_in(graded["query_id"], pa.array(list(per_query), pa.string())))
    tied = [_ties(s, row.query_type, row.measure, graded, ignore_identical_ids) for s in sides]
    shown = tuple(
        f"{side.name}: {t.sentence}" for side, t in zip(sides, tied, strict=True) if t and t.matter
    )
    if not shown or not per_query:
        return comparison
    values = [
        np.array([per_query[q][place] if t is None else t.by_query[q] for q in per_query])
        for place, t in enumerate(tied)
    ]
    paired = compare_paired(values[0], values[1])
    verdict, reason = decide(paired, paired.p, False, Changed(0, 0, 0), rules)
    comparison = replace(comparison, ties=shown)
    if verdict == comparison.verdict or comparison.verdict == "cannot tell":
        return comparison
    return replace(
        comparison,
        verdict="cannot tell",
        reason=f"equal scores decide: {comparison.reason} in the order of ids, but in random "
        f"order {verdict}: {reason}",
    )
