"""Two gradings of the same pairs, wherever they come from: labels, judgments, or another reranker.

A grading is named KIND:NAME. `labels:NAME` is a stored label set, `judgments:LIST` what people
said of the queries' present texts, and `run:ID` what the config's rule makes of that run's scores,
so that two rerankers are compared by one rule.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from reranking.arrow import frame
from reranking.errors import ConfigError, MissingResource
from reranking.judgments.consensus import binarised, one_per_pair
from reranking.judgments.lists import current_wording, read_lists
from reranking.labelling.judged import labels_as_grades
from reranking.labelling.kappa import (
    Agreement,
    RaterAgreement,
    agreement,
    disagreements,
    rater_agreement,
)
from reranking.labelling.label_sets import find_label_set, read_labels, stale_labels
from reranking.labelling.run_labels import Bench
from reranking.runs.listing import find_run
from reranking.runs.run import Run
from reranking.store import Database, equals

KINDS = ("labels", "judgments", "run")


@dataclass(frozen=True)
class Grading:
    """One grade per pair (query_id, doc_id, relevance, perhaps probability).

    `cut` is the lowest positive grade; `binary` gradings know yes and no only. `stale` labels, of
    texts that are others now, are left out.
    """

    name: str
    table: pa.Table
    cut: int
    binary: bool
    stale: int = 0


@dataclass(frozen=True)
class Compared:
    """Two gradings compared; `confusion` has each side's own grades, `figures` yes and no where
    one side is binary, and `disagreements` the pairs that tell most."""

    left: Grading
    right: Grading
    figures: Agreement
    confusion: pa.Table
    disagreements: pa.Table


class Gradings:
    """Finds gradings by name. `bench_of` prepares a run for the config's rule."""

    def __init__(
        self,
        database: Database,
        query_set: str,
        relevant: int,
        bench_of: Callable[[Run], Bench],
    ) -> None:
        self._database, self._query_set = database, query_set
        self._relevant, self._bench_of = relevant, bench_of

    def compare(self, left: str, right: str, limit: int = 20) -> Compared:
        """The agreement of two gradings; InputError where no pair has both."""
        one, other = self._find(left), self._find(right)
        first, second = one.table, other.table
        confusion = _confusion(first, second)
        if one.binary or other.binary:
            first, second = binarised(first, one.cut), binarised(second, other.cut)
        figures = agreement(first, second)
        if "probability" in first.column_names:
            differing = disagreements(first, second, limit)
        else:  # sureness is the side's that has probabilities
            names = {"left": "right", "right": "left"}
            differing = disagreements(second, first, limit)
            differing = differing.rename_columns([names.get(n, n) for n in differing.column_names])
        return Compared(one, other, figures, confusion, _own_grades(differing, one, other))

    def raters(self, judgment_list: str) -> RaterAgreement:
        """How far the raters of a judgment list agree, on the queries' present texts."""
        return rater_agreement(self._judgments(judgment_list.partition(":")[2] or judgment_list))

    def _find(self, side: str) -> Grading:
        kind, _, name = side.partition(":")
        if kind not in KINDS or not name:
            raise ConfigError(
                f"{side!r} is no grading: expected labels:NAME, judgments:LIST or run:ID"
            )
        if kind == "judgments":
            grades = one_per_pair(self._judgments(name))
            return Grading(side, grades, self._relevant, binary=False)
        return self._labels(side, name) if kind == "labels" else self._run(side, name)

    def _judgments(self, judgment_list: str) -> pa.Table:
        queries = self._database.read("queries", equals("query_set", self._query_set))
        if not queries.num_rows:
            raise MissingResource(f"no query set {self._query_set!r} in {self._database.uri}")
        return current_wording(
            read_lists(self._database, [judgment_list], self._query_set), queries
        )

    def _labels(self, side: str, name: str) -> Grading:
        row = find_label_set(self._database, name)
        run = find_run(self._database, row["runs"][0])
        if run.queries.name != self._query_set:
            raise ConfigError(
                f"label set {row['label_set']} is of query set {run.queries.name!r}, the config's "
                f"is {self._query_set!r}: ids of two query sets do not mean the same queries"
            )
        labels = read_labels(self._database, row["label_set"])
        changed = stale_labels(labels, run)
        keys = ["query_id", "doc_id"]
        kept = frame(labels).join(frame(changed), on=keys, how="anti").to_arrow()
        grades = labels_as_grades(kept)
        binary = not json.loads(row["rule"]).get("grades")
        return Grading(side, grades, 1, binary, stale=changed.num_rows)

    def _run(self, side: str, name: str) -> Grading:
        prepared = self._bench_of(find_run(self._database, name))
        grades = labels_as_grades(prepared.label())
        return Grading(side, grades, 1, binary=not prepared.chosen.grades)


def _own_grades(found: pa.Table, left: Grading, right: Grading) -> pa.Table:
    """The disagreements with each side's own grades in place of yes and no."""
    keys, rows = ["query_id", "doc_id"], frame(found).drop("left", "right")
    for name, side in (("left", left), ("right", right)):
        own = frame(side.table).select(*keys, pl.col("relevance").alias(name))
        rows = rows.join(own, on=keys, how="left", maintain_order="left")
    return rows.select(*keys, "left", "right", "gap", "sure").to_arrow()


def _confusion(left: pa.Table, right: pa.Table) -> pa.Table:
    """How often each two grades meet: left, right, count."""
    keys = ["query_id", "doc_id"]
    one = frame(left).select(*keys, pl.col("relevance").alias("left"))
    both = one.join(frame(right).select(*keys, pl.col("relevance").alias("right")), on=keys)
    return both.group_by("left", "right").len("count").sort("left", "right").to_arrow()
