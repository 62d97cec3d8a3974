"""After half precision: score in float32 what may stand above the cut, and say how well that works.

Half and float32 logits of a pair differ by at most some e. A pair whose half logit is more than 2e
below the top_k-th half logit of its ranking then cannot be among the top_k float32 logits. e is
measured on a sample of the chunk's pairs; how often the top k come out as float32 alone would have
them is measured on whole queries that are not part of that sample.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from reranking.arrow import frame
from reranking.runs.candidates import candidates_of
from reranking.runs.pairs import KEY, PairScores, distinct_pairs
from reranking.runs.ranking import cut_of, rank_results, rows_of, with_joined_scores
from reranking.runs.rerank import Rescorer
from reranking.runs.run import Run

log = logging.getLogger(__name__)

REFINED = ("refined", "refine_scored", "refine_margin", "rankings_checked", "rankings_equal")
_SAMPLE = 256  # pairs that the difference is measured on, at most
_SAMPLE_SHARE = 16  # and at most one pair in so many, but never fewer than _LEAST
_LEAST = 32
_CHECKED = 8  # queries whose rankings are compared with float32's, at most
_CHECKED_SHARE = 20  # and at most one query in so many, but never none


@dataclass(frozen=True)
class Refined:
    """What refining a chunk did; of `checked` rankings `equal` are those of float32 alone."""

    margin: float  # in logits
    pairs: int  # that may be above a cut
    scored: int  # in float32, samples included; the others were known
    checked: int
    equal: int


class Refiner:
    """Scores again in float32, with the Rescorer `exact`, what `half` left near or above a cut."""

    def __init__(self, half: Rescorer, exact: Rescorer) -> None:
        self.half, self.exact = half, exact

    def refine_chunk(self, chunk: int) -> Refined:
        """Score the chunk's pairs that may be above a cut; the chunk's half scores must be there.

        All that is scored is stored under the float32 fingerprint, so a repeat scores nothing.
        """
        run = self.half.run
        candidates = candidates_of(run, chunk)
        known = self.half.store.of(distinct_pairs(candidates))
        checked, probes = sample(known)
        scored = self.exact.score_pairs(chunk, probes.drop("score"))
        margin = margin_of(self.exact.store.of(probes.rename({"score": "half"})))
        above = above_cuts(candidates, known, run, margin)
        wanted = pl.concat([above, checked]).unique(KEY, maintain_order=True)
        scored += self.exact.score_pairs(chunk, wanted.drop("score"))
        equal = self._equal_rankings(candidates, checked, above)
        refined = Refined(margin, len(above), scored, len(equal), sum(equal))
        log.info("chunk %d: %s", chunk, refined)
        return refined

    def _equal_rankings(
        self, candidates: pa.Table, checked: pl.DataFrame, above: pl.DataFrame
    ) -> list[bool]:
        """Per ranking of the checked queries, whether it is what float32 alone gives."""
        both = with_exact(checked, self.exact.store)
        asked = frame(candidates).join(checked, on="query_hash", how="semi").to_arrow()
        refined = both.join(above.select(KEY, near=True), on=KEY, how="left").with_columns(
            exact=pl.when(pl.col("near")).then(pl.col("exact"))
        )
        plain = both.select(*KEY, score="exact")
        tops = [_tops(asked, scores, self.half.run) for scores in (refined, plain)]
        return [tops[0][key] == top for key, top in tops[1].items()]


def refined_counts(chunks: Sequence[Refined]) -> dict[str, float]:
    """Return the figures REFINED over all chunks, for `runs`; the margin is the widest."""
    sums = (
        sum(c.pairs for c in chunks),
        sum(c.scored for c in chunks),
        round(max((c.margin for c in chunks), default=0.0), 6),
        sum(c.checked for c in chunks),
        sum(c.equal for c in chunks),
    )
    return dict(zip(REFINED, sums, strict=True))


def sample(known: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """All pairs of a few queries, and a few pairs of the others: the same for the same pairs.

    Where there is only one query, it is both.
    """
    ordered = known.sort(KEY)
    queries = ordered["query_hash"].unique(maintain_order=True)
    count = min(_CHECKED, max(1, len(queries) // _CHECKED_SHARE), len(queries))
    chosen = queries.sample(count, seed=0).to_frame()
    checked = ordered.join(chosen, on="query_hash", how="semi", maintain_order="left")
    others = ordered.join(chosen, on="query_hash", how="anti", maintain_order="left")
    others = others if len(others) else ordered
    size = min(_SAMPLE, max(_LEAST, len(others) // _SAMPLE_SHARE), len(others))
    return checked, others.sample(size, seed=0)


def margin_of(probes: pl.DataFrame) -> float:
    """Twice the largest difference between `half` and `score`: both pairs of a swap may be off."""
    gaps = probes["half"].cast(pl.Float64) - probes["score"].cast(pl.Float64)
    return 2 * float(np.abs(gaps.to_numpy()).max(initial=0.0))


def above_cuts(candidates: pa.Table, scores: pl.DataFrame, run: Run, margin: float) -> pl.DataFrame:
    """The rows of `scores` at most `margin` below the last kept one of one of their rankings.

    Pure; `scores` has query_hash, doc_hash and score. With a blend, which adds the same to both
    logits of a pair, it is the blended score that is cut by.
    """
    rows = frame(candidates).join(scores.select(*KEY, "score"), on=KEY)
    cut = cut_of(run.search.limit, run.top_k)
    last = pl.col("score").sort(descending=True).head(cut).last().over("query_id")
    near = []
    for query_type in run.search.query_types:
        view = rows_of(rows, query_type)
        if run.blend is not None:
            view = with_joined_scores(view, query_type, run.blend)
        near.append(view.filter(pl.col("score") >= last - margin).select(KEY))
    return scores.join(pl.concat(near), on=KEY, how="semi", maintain_order="left")


def with_exact(half: pl.DataFrame, exact: PairScores) -> pl.DataFrame:
    """The half scores with the float32 ones beside them, null if not computed."""
    known = exact.known.select(*KEY, exact="score")
    return half.join(known, on=KEY, how="left", maintain_order="left")


def _tops(
    candidates: pa.Table, scores: pl.DataFrame, run: Run
) -> dict[tuple[object, ...], list[str]]:
    """The documents of each (query_id, query_type), best first."""
    ranked = rank_results(
        candidates,
        scores.to_arrow(),
        query_types=run.search.query_types,
        limit=run.search.limit,
        top_k=run.top_k,
        blend=run.blend,
    )
    groups = frame(ranked).group_by("query_id", "query_type", maintain_order=True)
    return {key: rows.sort("rank")["doc_id"].to_list() for key, rows in groups}
