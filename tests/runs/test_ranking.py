"""Ranking: candidates and scores to results, by hand and by property."""

from __future__ import annotations

import math
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranking.arrow import frame
from reranking.runs.ranking import rank_results
from reranking.schemas import CANDIDATES
from tests.support.legs import THREE, TYPES, candidates, scores


def ranked(table: pa.Table, logits: pa.Table | None, **options: Any) -> dict[str, list[str]]:
    given: dict[str, Any] = {"query_types": TYPES, "limit": 10} | options
    rows = frame(rank_results(table, logits, **given))
    assert rows["rank"].to_list() == [
        r for t in given["query_types"] for r in range(1, len(rows.filter(query_type=t)) + 1)
    ]
    return {t: rows.filter(query_type=t)["doc_id"].to_list() for t in given["query_types"]}


def test_each_query_type_is_a_view_of_the_same_candidates() -> None:
    logits = scores(a=0.5, b=-1.0, c=2.0)
    assert ranked(THREE, logits) == {
        "vector": ["a", "b"],
        "fts": ["c", "b"],
        "hybrid": ["c", "a", "b"],
    }


def test_limit_cuts_hybrid_and_top_k_cuts_all() -> None:
    logits = scores(a=0.5, b=-1.0, c=2.0)
    assert ranked(THREE, logits, limit=2)["hybrid"] == ["c", "a"]
    assert ranked(THREE, logits, top_k=1) == {"vector": ["a"], "fts": ["c"], "hybrid": ["c"]}


def test_equal_scores_are_ranked_by_id() -> None:
    assert ranked(THREE, scores(a=1.0, b=1.0, c=1.0))["hybrid"] == ["a", "b", "c"]


def test_the_first_stage_is_reciprocal_rank_fusion() -> None:
    rows = frame(rank_results(THREE, None, query_types=("hybrid",), limit=10))
    expected = {"b": 1 / 62 + 1 / 62, "a": 1 / 61, "c": 1 / 61}
    assert rows["doc_id"].to_list() == ["b", "a", "c"]
    for name, value in zip(rows["doc_id"], rows["_relevance_score"], strict=True):
        assert value == pytest.approx(expected[name])


@pytest.mark.parametrize(
    ("types", "return_score", "extra"),
    [
        (TYPES, "relevance", []),
        (TYPES, "all", ["_distance", "_score"]),
        (("vector",), "all", ["_distance"]),
        (("fts",), "all", ["_score"]),
        (("hybrid",), "all", ["_distance", "_score"]),
    ],
)
def test_score_columns(types: tuple[str, ...], return_score: str, extra: list[str]) -> None:
    table = rank_results(
        THREE, scores(a=1, b=2, c=3), query_types=types, limit=9, return_score=return_score
    )
    assert table.column_names[5:] == extra


def test_scores_of_a_leg_that_does_not_belong_are_null() -> None:
    logits = scores(a=1, b=2, c=3)
    rows = frame(
        rank_results(THREE, logits, query_types=TYPES, limit=9, return_score="all")
    ).filter(doc_id="b")
    found = {r["query_type"]: (r["_distance"], r["_score"]) for r in rows.to_dicts()}
    assert found["vector"] == (pytest.approx(0.2), None)
    assert found["fts"] == (None, pytest.approx(7.0))
    assert found["hybrid"] == (pytest.approx(0.2), pytest.approx(7.0))


def test_a_saturated_sigmoid_does_not_spoil_the_order() -> None:
    logits = scores(a=40.0, b=60.0, c=50.0)  # all 1.0 in float32
    rows = frame(
        rank_results(THREE, logits, query_types=("hybrid",), limit=9, activation="sigmoid")
    )
    assert rows["doc_id"].to_list() == ["b", "c", "a"]
    assert rows["_relevance_score"].to_list() == [1.0, 1.0, 1.0]


@given(st.floats(-30, 30, width=32))
def test_the_sigmoid_is_the_sigmoid(logit: float) -> None:
    rows = rank_results(
        candidates(("a", 1, 1)),
        scores(a=logit),
        query_types=("fts",),
        limit=1,
        activation="sigmoid",
    )
    assert rows["_relevance_score"][0].as_py() == pytest.approx(
        1 / (1 + math.exp(-logit)), rel=1e-6
    )


def test_no_candidates_give_no_rows_of_the_same_shape() -> None:
    empty = rank_results(CANDIDATES.empty_table(), None, query_types=TYPES, limit=5)
    full = rank_results(THREE, None, query_types=TYPES, limit=5)
    assert empty.num_rows == 0
    assert empty.schema.equals(full.schema)
    assert isinstance(frame(empty), pl.DataFrame)
