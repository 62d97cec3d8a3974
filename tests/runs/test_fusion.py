"""Scores of the legs joined with each other and with the reranker's: by hand, and named in runs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from configs.blending import Blend, Fusion
from configs.schema import Config, Rerank, Search
from reranking.arrow import frame
from reranking.runs.fusion import Legs, blended, fused
from reranking.runs.plan import _joining
from reranking.runs.ranking import rank_results
from tests.support.legs import THREE, TYPES, candidates, scores

NONE = math.nan
# a and b by vector, b, c and d by words; a second query that nothing was found for by vector
LEGS = Legs(
    vector_rank=np.array([[1, 2, NONE, NONE], [NONE] * 4]),
    distance=np.array([[0.2, 0.4, NONE, NONE], [NONE] * 4]),
    fts_rank=np.array([[NONE, 2, 1, 3], [1, NONE, NONE, NONE]]),
    bm25=np.array([[NONE, 4.0, 8.0, 2.0], [3.0, NONE, NONE, NONE]]),
)


def rows(values: np.ndarray) -> list[list[float]]:
    return [pytest.approx(r, nan_ok=True, abs=1e-9) for r in values.tolist()]


@pytest.mark.parametrize(
    ("fusion", "expected"),
    [
        (None, [1 / 61, 2 / 62, 1 / 61, 1 / 63]),
        (Fusion(k=1), [1 / 2, 2 / 3, 1 / 2, 1 / 4]),
        (Fusion(vector=0.75), [1.5 / 61, 2 / 62, 0.5 / 61, 0.5 / 63]),
        (Fusion(method="convex"), [1, 1 / 3, 1, 0]),
        (Fusion(method="convex", vector=0.25), [0.5, 1.5 / 3, 1.5, 0]),
        # cosines .8 and .6 above -1, of 1.8; c and d have at most .6; BM25 of 8
        (
            Fusion(method="convex", scale="theoretical"),
            [1, 1.6 / 1.8 + 0.5, 1.6 / 1.8 + 1, 1.6 / 1.8 + 0.25],
        ),
    ],
)
def test_the_legs_are_fused_by_hand(fusion: Fusion | None, expected: list[float]) -> None:
    values = fused(LEGS, fusion)
    assert values[0].tolist() == pytest.approx(expected)
    assert values[1, 0] > 0 and np.isnan(values[1, 1:]).all()


def test_the_distribution_is_each_legs_own() -> None:
    values = fused(LEGS, Fusion(method="distribution"))
    mean, spread = 14 / 3, np.std([4.0, 8.0, 2.0], ddof=1)
    near = [0.5 + (0.3 - d) / (6 * np.std([0.2, 0.4], ddof=1)) for d in (0.2, 0.4)]
    words = [0.5 + (s - mean) / (6 * spread) for s in (4.0, 8.0, 2.0)]
    assert values[0].tolist() == pytest.approx([near[0], near[1] + words[0], *words[1:]])
    assert values[1, 0] == 0.5  # one hit says nothing of its distribution


@pytest.mark.parametrize(
    ("blend", "expected"),
    [
        (Blend(vector=10), [1 + 8, 2 + 6, 3 + 6, 4 + 6]),  # at most the lowest cosine found
        (Blend(fts=8), [1, 2 + 4, 3 + 8, 4 + 2]),  # no words, no BM25
        (Blend(vector=10, fts=8), [9, 12, 17, 12]),
        (Blend(vector=1, fts=3, scale="min-max"), [2, 3, 6, 4]),
        (
            Blend(method="ranks", k=1, vector=1, fts=2),
            [1 / 5 + 1 / 2, 1 / 4 + 1 / 3 + 2 / 3, 1 / 3 + 2 / 2, 1 / 2 + 2 / 4],
        ),
    ],
)
def test_logits_are_blended_by_hand(blend: Blend, expected: list[float]) -> None:
    logits = np.array([[1.0, 2.0, 3.0, 4.0], [5.0, NONE, NONE, NONE]])
    values = blended(logits, LEGS, blend)
    assert values[0].tolist() == pytest.approx(expected)
    assert np.isfinite(values[1, 0]) and np.isnan(values[1, 1:]).all()


def test_equal_logits_share_the_better_rank() -> None:
    logits = np.array([[7.0, 7.0, 9.0, 7.0], [5.0, NONE, NONE, NONE]])
    alone = Legs(LEGS.vector_rank, LEGS.distance, LEGS.fts_rank, LEGS.bm25)
    values = blended(logits, alone, Blend(method="ranks", k=1, vector=1e-9))
    assert values[0].tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 2, 1 / 3], abs=1e-6)


def test_each_view_is_blended_with_its_own_legs() -> None:
    """a: vector 1; b: vector 2, fts 2; c: fts 1. BM25 is 7 of 8 for b."""
    logits = scores(a=1.0, b=2.0, c=3.0)
    table = rank_results(
        THREE,
        logits,
        query_types=TYPES,
        limit=9,
        activation="sigmoid",
        blend=Blend(vector=10, fts=8),
    )
    found = frame(table)
    of = {
        t: dict(found.filter(query_type=t).select("doc_id", "_relevance_score").iter_rows())
        for t in TYPES
    }
    assert of["vector"] == pytest.approx({"a": 10.0, "b": 10.0})  # no BM25 term, no sigmoid
    assert of["fts"] == pytest.approx({"b": 9.0, "c": 11.0})  # no cosine term
    assert of["hybrid"] == pytest.approx({"a": 10.0, "b": 17.0, "c": 19.0})
    assert found.filter(query_type="vector")["doc_id"].to_list() == ["a", "b"]


def test_a_first_stage_is_fused_as_it_is_told() -> None:
    legs = candidates(("a", 1, None), ("b", None, 1), ("c", 2, None))
    found = frame(
        rank_results(legs, None, query_types=("hybrid",), limit=9, fusion=Fusion(vector=0.1))
    )
    assert found["doc_id"].to_list() == ["b", "a", "c"]
    plain = rank_results(legs, None, query_types=("hybrid",), limit=9)
    assert rank_results(legs, None, query_types=("hybrid",), limit=9, fusion=Fusion()) == plain


def test_only_what_differs_names_a_run() -> None:
    assert _joining(None, None) == {} == _joining(Fusion(), None)
    assert _joining(Fusion(k=10), Blend(vector=10)) == {
        "fusion": {"k": 10},
        "blend": {"vector": 10.0},
    }


BASE: dict[str, Any] = {"database": "d", "documents": {}, "queries": {"query_set": "q"}}


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: Blend(), "blend adds nothing"),
        (lambda: Blend(vector=1, k=9), "k belongs to the method ranks"),
        (lambda: Blend(vector=math.inf), "finite"),
        (lambda: Fusion(method="convex", k=9), "k belongs to the method rrf"),
        (lambda: Fusion(scale="theoretical"), "scale belongs to the method convex"),
        (lambda: Search(query_types=("fts",), fusion=Fusion(k=9)), "which query_types lacks"),
        (
            lambda: Rerank(refine="float32", top_k=5, blend=Blend(method="ranks", fts=1)),
            "refine knows how far a logit may be off",
        ),
        (
            lambda: Config.model_validate(
                BASE | {"search": {"metric": "l2"}, "rerank": {"blend": {"vector": 10}}}
            ),
            "rerank.blend takes the cosine from the distance, but the metric is l2",
        ),
    ],
)
def test_what_cannot_be_is_refused(made: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        made()
