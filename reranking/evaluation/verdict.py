"""The verdict of a comparison: improved, regressed, no difference, or cannot tell.

In this order: without comparable queries there is no conclusion; identical rankings do not differ;
below `min_queries` there is no conclusion (with fewer than about 25 topics comparisons are
unstable: Buckley & Voorhees, SIGIR 2000). Then the interval lies inside +-margin (no difference,
even if significant: the margin is the smallest difference that matters), or the p-value is below
alpha (improved, regressed), or the queries were too few. Last, a conclusion is withdrawn if
documents nobody judged could overturn it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from configs.evaluation import ComparisonSettings
from reranking.arrow import frame
from reranking.evaluation.measures import evaluate
from reranking.evaluation.statistics import Paired

Verdict = Literal["improved", "regressed", "no difference", "cannot tell"]


MAX_UNJUDGED: Final = 0.5
"""Documents that changed are suspected if a larger share of them is unjudged."""
UNJUDGED_RELEVANT: Final = 0.05
"""By how much the relevant share of one run's unjudged documents might exceed the other's.

Equal shares cancel out, so small numbers are plausible here.
"""


@dataclass(frozen=True)
class Changed:
    """Documents that entered or left the top k between the two runs, and what they could do.

    `low` and `high` bound the difference if UNJUDGED_RELEVANT of the unjudged ones were relevant:
    of those only the base shows (low), of those only the candidate shows (high). They are None if
    too few are unjudged to ask.
    """

    k: int
    documents: int
    unjudged: int
    low: float | None = None
    high: float | None = None

    @property
    def share(self) -> float:
        """Return the unjudged share of the changed documents; 0 if nothing changed."""
        return self.unjudged / self.documents if self.documents else 0.0


def changed_documents(
    rankings: tuple[pa.Table, pa.Table],
    judgments: pa.Table,
    query_ids: list[str],
    measure: str,
    k: int,
    measured: float | None,
) -> Changed:
    """Return what changed in the top `k` of `query_ids`.

    `rankings` are the base's and the candidate's; `measured` is the difference of the measure's
    means as judged (None without queries). The bounds are first-order: the difference moves from
    what was measured towards what would be measured if all those documents were relevant (the
    judged relevant ones' median grade), by the share UNJUDGED_RELEVANT. The idea is that of the
    residual of Moffat & Zobel (TOIS 2008).
    """
    left, right = (_top(ranking, query_ids, k) for ranking in rankings)
    pair = ["query_id", "doc_id"]
    judged = frame(judgments).select(pair)
    gone, new = left.join(right, on=pair, how="anti"), right.join(left, on=pair, how="anti")
    unjudged_gone = gone.join(judged, on=pair, how="anti")
    unjudged_new = new.join(judged, on=pair, how="anti")
    changed = Changed(k, gone.height + new.height, unjudged_gone.height + unjudged_new.height)
    if changed.share <= MAX_UNJUDGED or measured is None:
        return changed

    def difference(supposed: pl.DataFrame) -> float:
        graded = _with_relevant(judgments, supposed)
        base, candidate = (_mean(ranking, graded, query_ids, measure) for ranking in rankings)
        return candidate - base

    return replace(
        changed,
        low=measured + UNJUDGED_RELEVANT * min(0.0, difference(unjudged_gone) - measured),
        high=measured + UNJUDGED_RELEVANT * max(0.0, difference(unjudged_new) - measured),
    )


def _top(ranking: pa.Table, query_ids: list[str], k: int) -> pl.DataFrame:
    rows = frame(ranking).filter(pl.col("rank") <= k, pl.col("query_id").is_in(query_ids))
    return rows.select("query_id", "doc_id")


def _with_relevant(judgments: pa.Table, supposed: pl.DataFrame) -> pa.Table:
    """`judgments` and the documents `supposed` to be as relevant as the median relevant one."""
    known = judgments.select(["query_id", "doc_id", "relevance"])
    positive = known["relevance"].filter(pc.greater(known["relevance"], 0))
    grade = int(np.median(np.asarray(positive))) if len(positive) else 1
    added = {name: pa.array(supposed[name].to_list(), pa.string()) for name in supposed.columns}
    added["relevance"] = pa.array([grade] * supposed.height, known.schema.field("relevance").type)
    return pa.concat_tables([known, pa.table(added, schema=known.schema)])


def _mean(ranking: pa.Table, judgments: pa.Table, query_ids: list[str], measure: str) -> float:
    values = evaluate(ranking, judgments, query_ids, [measure])
    return float(pc.mean(values.filter(pc.equal(values["measure"], measure))["value"]).as_py())


def decide(
    paired: Paired, p: float | None, identical: bool, changed: Changed, rules: ComparisonSettings
) -> tuple[Verdict, str]:
    """Return the verdict and the reason; `p` is corrected if several candidates compete."""
    verdict, reason = _by_statistics(paired, p, identical, rules)
    if verdict == "cannot tell" or changed.low is None or changed.high is None:
        return verdict, reason
    overturned = {
        "improved": changed.low <= 0,
        "regressed": changed.high >= 0,
        "no difference": changed.low < -rules.margin or changed.high > rules.margin,
    }
    if overturned[verdict]:
        return "cannot tell", (
            f"too much is unjudged: {changed.unjudged} of the {changed.documents} documents that "
            f"entered or left the top {changed.k} have no grade; if {UNJUDGED_RELEVANT:.0%} "
            "of those in only one of the runs were relevant, the difference could be anything from "
            f"{changed.low:+.4f} to {changed.high:+.4f} (measured: {reason})"
        )
    return verdict, reason


def _by_statistics(
    paired: Paired, p: float | None, identical: bool, rules: ComparisonSettings
) -> tuple[Verdict, str]:
    n = paired.queries
    if n == 0 or paired.difference is None:
        return "cannot tell", "no query could be compared"
    if identical:
        return "no difference", f"the rankings of all {n} queries are identical"
    measured = f"{paired.difference:+.4f} over {n} queries"
    if n < rules.min_queries or paired.low is None or paired.high is None or p is None:
        return (
            "cannot tell",
            f"too few queries: {n}, at least {rules.min_queries} are needed ({measured})",
        )
    measured += f", interval {paired.low:+.4f} to {paired.high:+.4f}, p = {p:.4g}"
    if -rules.margin <= paired.low and paired.high <= rules.margin:
        return "no difference", f"{measured}: inside the margin of {rules.margin:g}"
    if p < rules.alpha:
        return ("improved" if paired.difference > 0 else "regressed"), measured
    smallest = (
        ""
        if paired.detectable is None
        else f"; the smallest difference this many queries could show is {paired.detectable:.4f}"
    )
    return "cannot tell", f"too few queries for so small a difference: {measured}{smallest}"
