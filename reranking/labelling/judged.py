"""Scored pairs, and the grades that people or labels gave them.

Scored pairs are a table with query_id, doc_id, query_hash, doc_hash, score (raw logit),
vector_rank and fts_rank (null where that leg did not find the document); `other_score` is a second
reranker's logit, `probability` and `other_probability` come from a calibration. Grades are a table
with query_id, doc_id and relevance, one row per pair.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from reranking.arrow import frame
from reranking.errors import InputError
from reranking.judgments.consensus import consensus, human

PAIR_COLUMNS = (
    "query_id",
    "doc_id",
    "query_hash",
    "doc_hash",
    "score",
    "vector_rank",
    "fts_rank",
)


def pair_frame(pairs: pa.Table, *more: str) -> pl.DataFrame:
    """The scored pairs as polars; InputError for missing columns and scores that are no numbers."""
    result = frame(pairs, (*PAIR_COLUMNS, *more), "scored pairs")
    broken = result.filter(~pl.col("score").is_finite().fill_null(False))
    if broken.height:
        query, doc = broken.select("query_id", "doc_id").row(0)
        raise InputError(
            f"{broken.height} scores are null, NaN or infinite, the first for query {query!r} and "
            f"document {doc!r}; score these pairs again before labelling them"
        )
    return result


def ranked(pairs: pl.DataFrame, column: str = "score") -> pl.DataFrame:
    """The pairs with `position` in their query, from 1: `column` descending, doc_id ascending."""
    ordered = pairs.sort(
        "query_id", column, "doc_id", descending=[False, True, False], nulls_last=True
    )
    return ordered.with_columns(
        pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("query_id").alias("position")
    )


def judged(pairs: pl.DataFrame, judgments: pa.Table) -> pl.DataFrame:
    """The pairs that somebody judged, with `relevance`.

    Where judgments carry query_hash, a grade given to another wording of the query is not used.
    """
    grades = frame(consensus(judgments)).drop("raters")
    keys = ["query_id", "doc_id", *(["query_hash"] if "query_hash" in grades.columns else [])]
    return pairs.join(grades, on=keys, how="inner", maintain_order="left")


def labels_as_grades(labels: pa.Table) -> pa.Table:
    """Labels as grades: query_id, doc_id, relevance, probability, score; unsure rows left out."""
    rows = frame(labels, ("query_id", "doc_id", "label", "probability", "score"), "labels")
    kept = rows.filter(pl.col("label").is_not_null())
    return kept.select(
        "query_id", "doc_id", pl.col("label").alias("relevance"), "probability", "score"
    ).to_arrow()


ONE_SIDED = 20
"""From so many judgments on, a source that calls every pair relevant has chosen what it judged."""
_PARTS = 4


def sample_of(judgments: pa.Table, relevant: int) -> tuple[pa.Table, dict[str, int]]:
    """Return the judgments that may speak for precision, and how many others each source has.

    A source that found all of many pairs relevant did not draw them from the scored pairs: it
    judged them because they are relevant, so its grades show no wrong label. If all sources are
    like that, all judgments are returned, for the message that says so.
    """
    rows = human(frame(judgments, ["relevance"], "judgments"))
    if "source" not in rows.columns:
        return judgments, {}
    sources = rows.group_by("source").agg(pl.len().alias("count"), pl.col("relevance").min())
    one_sided = sources.filter((pl.col("count") >= ONE_SIDED) & (pl.col("relevance") >= relevant))
    left_out = {str(name): int(count) for name, count, _ in one_sided.sort("source").iter_rows()}
    rest = rows.filter(~pl.col("source").is_in(list(left_out)))
    return (rest if rest.height else rows).to_arrow(), left_out


def unjudged_range(scores: pl.Series, judged_scores: pl.Series) -> tuple[float, float] | None:
    """Return a range of scores in which no pair is judged, None if the judged ones are spread.

    `scores` are those of all pairs that a rule calls positive, `judged_scores` of the judged ones
    among them. Each quarter of the pairs must have a judged one, or the share of relevant pairs
    says nothing about that quarter. Fewer than twenty pairs are not divided.
    """
    if len(scores) < _PARTS * 5 or not len(judged_scores):
        return None
    ordered = scores.sort()
    for part in range(_PARTS):
        low = float(ordered[len(scores) * part // _PARTS])
        high = float(ordered[len(scores) * (part + 1) // _PARTS - 1])
        if not ((judged_scores >= low) & (judged_scores <= high)).any():
            return low, high
    return None


def no_sample(scores: pl.Series, judged_scores: pl.Series) -> str | None:
    """Return why the judged pairs are no sample of the scores, None if they may be one."""
    gap = unjudged_range(scores, judged_scores)
    if gap is None:
        return None
    return (
        f"the judgments are no sample of these scores: of {len(scores)} positive pairs none is "
        f"judged between score {gap[0]:.4g} and {gap[1]:.4g}"
    )
