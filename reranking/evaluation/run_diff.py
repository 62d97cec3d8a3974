"""What changed between two runs of one query set: documents that came, went and scores that moved.

Read from the published results alone: no judgments and no model are needed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

import polars as pl
import pyarrow as pa

from reranking.arrow import frame
from reranking.evaluation.explain import refuse_unequal
from reranking.evaluation.sides import Side, deciding_query_type
from reranking.notebook import html_table
from reranking.runs.run import Run

K: Final = 10
SAME: Final = 1e-4  # scores of one pair differ by less between batches and devices
_KEY = ["query_id", "doc_id"]
COLUMNS: Final = ("query_id", "came", "went", "other ranks", "scores moved", "largest move")


@dataclass(frozen=True)
class QueryDiff:
    """How the top k of one query changed; `score_moves` are of documents in both rankings.

    `reordered` counts documents that are in both top k at another rank. A query that only one of
    the runs answers has `only_in`.
    """

    query_id: str
    came: tuple[str, ...]
    went: tuple[str, ...]
    reordered: int
    score_moves: int
    largest_move: float
    only_in: str | None = None

    @property
    def changed(self) -> bool:
        """Whether the top k differs."""
        return bool(self.came or self.went or self.reordered)


@dataclass(frozen=True)
class RunDiff:
    """Everything that differs between two runs, from `before` to `after`, in one query type.

    `queries` are those whose top k or scores changed, largest change first. Scores of runs with
    other rerankers (`same_model` false) are on other scales: their moves are then not counted.
    """

    before: str
    after: str
    query_type: str
    k: int
    asked: int
    same_model: bool
    inputs: dict[str, tuple[Any, Any]]
    queries: tuple[QueryDiff, ...]

    @property
    def changed(self) -> tuple[QueryDiff, ...]:
        """The queries whose top k changed."""
        return tuple(q for q in self.queries if q.changed)

    @property
    def rows(self) -> list[tuple[object, ...]]:
        """The queries as rows of a table with COLUMNS."""
        return [
            (
                q.query_id,
                _some(q.came),
                _some(q.went),
                q.reordered,
                q.score_moves,
                q.largest_move,
            )
            for q in self.queries
        ]

    @property
    def sentence(self) -> str:
        """What changed, in one sentence."""
        came, went = (sum(len(getattr(q, n)) for q in self.queries) for n in ("came", "went"))
        moves = sum(q.score_moves for q in self.queries)
        scores = f"{moves:,} scores moved" if self.same_model else "scores are another model's"
        return (
            f"{self.before[:8]} -> {self.after[:8]} ({self.query_type}): the top {self.k} of "
            f"{len(self.changed):,} of {self.asked:,} queries changed, {came:,} documents came, "
            f"{went:,} went, {scores}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-like values."""
        queries = [asdict(q) | {"changed": q.changed} for q in self.queries]
        inputs = {name: list(pair) for name, pair in self.inputs.items()}
        summary = {"sentence": self.sentence, "changed": len(self.changed)}
        return {**vars(self), **summary, "inputs": inputs, "queries": queries}

    def __str__(self) -> str:
        return self.sentence

    def _repr_html_(self) -> str:
        return html_table(self.sentence, COLUMNS, self.rows)


def _some(ids: tuple[str, ...]) -> str:
    more = [f"and {len(ids) - 3} more"] if len(ids) > 3 else []
    return ", ".join([*ids[:3], *more])


def diff_runs(before: Run, after: Run, *, query_type: str | None = None, k: int = K) -> RunDiff:
    """Return what changed from one finished run to the other; both answer one query set."""
    refuse_unequal([before, after])
    sides = [Side(run, "reranked", run.run_id[:8]) for run in (before, after)]
    asked = deciding_query_type(query_type, sides)
    old, new = sides[0].inputs, sides[1].inputs
    same = before.reranker == after.reranker and before.activation == after.activation
    names = [set(run.query_rows["query_id"].to_pylist()) for run in (before, after)]
    only = {q: before.run_id for q in names[0] - names[1]}
    only |= {q: after.run_id for q in names[1] - names[0]}
    left, right = (_ranked(run.results(), asked) for run in (before, after))
    return RunDiff(
        before=before.run_id,
        after=after.run_id,
        query_type=asked,
        k=k,
        asked=len(names[0] | names[1]),
        same_model=same,
        inputs={name: (old[name], new[name]) for name in old if old[name] != new[name]},
        queries=_diffs(left, right, k, same, only),
    )


def _ranked(results: pa.Table, query_type: str) -> pl.DataFrame:
    rows = frame(results).filter(pl.col("query_type") == query_type)
    return rows.select(*_KEY, "rank", score="_relevance_score")


def _diffs(
    left: pl.DataFrame, right: pl.DataFrame, k: int, same_model: bool, only: dict[str, str]
) -> tuple[QueryDiff, ...]:
    joined = left.join(right, on=_KEY, how="full", coalesce=True, suffix="_after")
    old, new = pl.col("rank") <= k, pl.col("rank_after") <= k
    old, new = old.fill_null(value=False), new.fill_null(value=False)
    move = (pl.col("score_after") - pl.col("score")) if same_model else pl.lit(None, pl.Float32)
    summary = (
        joined.with_columns(old=old, new=new, move=move.fill_null(0.0))
        .sort("rank_after", "rank", "doc_id", nulls_last=True)
        .group_by("query_id")
        .agg(
            came=pl.col("doc_id").filter(pl.col("new") & ~pl.col("old")),
            went=pl.col("doc_id").filter(pl.col("old") & ~pl.col("new")),
            reordered=(
                pl.col("old") & pl.col("new") & (pl.col("rank") != pl.col("rank_after"))
            ).sum(),
            moves=(pl.col("move").abs() > SAME).sum(),
            largest=pl.col("move").get(pl.col("move").abs().arg_max()),
        )
    )
    made = [
        QueryDiff(
            query_id=r["query_id"],
            came=tuple(r["came"]),
            went=tuple(r["went"]),
            reordered=r["reordered"],
            score_moves=r["moves"],
            largest_move=r["largest"] if r["moves"] else 0.0,
            only_in=only.get(r["query_id"]),
        )
        for r in summary.to_dicts()
    ]
    kept = [q for q in made if q.changed or q.score_moves]
    kept.sort(
        key=lambda q: (-len(q.came) - len(q.went), -q.reordered, -abs(q.largest_move), q.query_id)
    )
    return tuple(kept)
