"""How much two rankings have in common, without any judgments: overlap at k and RBO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from reranking.arrow import frame

Rankings = Mapping[str, Sequence[str]]

PERSISTENCE: Final = 0.9  # a reader's chance to go one rank deeper: the top 10 weigh about 86 %


@dataclass(frozen=True)
class Overlap:
    """Means over queries; `identical` counts queries whose rankings are equal at every rank."""

    queries: int
    identical: int
    k: int
    overlap: float | None
    rbo: float | None


def rankings_overlap(
    base: Rankings,
    candidate: Rankings,
    query_ids: Sequence[str],
    *,
    k: int = 10,
) -> Overlap:
    """Return the overlap of two runs over `query_ids`; a query that a mapping lacks had no hits."""
    overlaps, rbos, identical = [], [], 0
    for query_id in query_ids:
        left, right = base.get(query_id, ()), candidate.get(query_id, ())
        same = list(left) == list(right)
        identical += same
        overlaps.append(1.0 if same else overlap_at(left, right, k))
        rbos.append(1.0 if same else rbo(left, right))
    if not overlaps:
        return Overlap(0, 0, k, None, None)
    return Overlap(len(overlaps), identical, k, float(np.mean(overlaps)), float(np.mean(rbos)))


def overlap_at(left: Sequence[str], right: Sequence[str], k: int) -> float:
    """Return the share of documents that the two top k have in common; 1 if both are empty."""
    a, b = set(left[:k]), set(right[:k])
    longest = max(len(a), len(b))
    return len(a & b) / longest if longest else 1.0


def rbo(left: Sequence[str], right: Sequence[str], p: float = PERSISTENCE) -> float:
    """Return the rank-biased overlap in [0, 1], extrapolated beyond both lists.

    Webber, Moffat & Zobel, "A similarity measure for indefinite rankings", TOIS 2010, equation 32.
    1 if both lists are empty, 0 if one is.
    """
    short, long = sorted((left, right), key=len)
    if not short:
        return 0.0 if long else 1.0
    s, l_ = len(short), len(long)
    seen_short: set[str] = set()
    seen_long: set[str] = set()
    common = common_at_s = 0
    total, weight = 0.0, 1.0
    for d in range(1, l_ + 1):
        weight *= p
        common += _new_overlap(short[d - 1] if d <= s else None, long[d - 1], seen_short, seen_long)
        total += common / d * weight
        if d == s:
            common_at_s = common
        elif d > s:
            total += common_at_s * (d - s) / (s * d) * weight
    return (1 - p) / p * total + ((common - common_at_s) / l_ + common_at_s / s) * weight


def _new_overlap(a: str | None, b: str, seen_a: set[str], seen_b: set[str]) -> int:
    """How many documents become common when `a` and `b` join what was seen (both are updated)."""
    if a is not None:
        seen_a.add(a)
    seen_b.add(b)
    if a is None or a == b:
        return int(b in seen_a)
    return int(a in seen_b) + int(b in seen_a)


def rankings_of(table: pa.Table) -> dict[str, list[str]]:
    """Return {query_id: documents in rank order} of one query type's (query_id, doc_id, rank)."""
    rows = frame(table.select(["query_id", "doc_id", "rank"]))
    grouped = rows.sort("query_id", "rank").group_by("query_id", maintain_order=True)
    lists = grouped.agg("doc_id")
    return dict(zip(lists["query_id"].to_list(), lists["doc_id"].to_list(), strict=True))
