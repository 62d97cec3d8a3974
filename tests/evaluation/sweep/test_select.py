"""Choosing and telling: pure, on values made by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from configs.blending import Blend
from configs.evaluation import ComparisonSettings
from reranking.evaluation.array_measures import NOTHING, array_measure
from reranking.evaluation.measures import parse_measures
from reranking.evaluation.sweep.pool import Pool, make_pool
from reranking.evaluation.sweep.run_sweep import sweep
from reranking.evaluation.sweep.select import best_of, folds, measured, set_aside
from reranking.evaluation.sweep.settings import Setting, families, ranked

TODAY = Setting("hybrid", 10, reranked=True)


def world(queries: int, informative: float, seed: int = 0) -> tuple[Pool, pa.Table]:
    """Ten candidates of each leg, one relevant; the cosine knows it as well as `informative`."""
    rng = np.random.default_rng(seed)
    rows, grades = [], []
    for q in range(queries):
        relevant = rng.integers(0, 10)
        cosines = np.sort(rng.uniform(0.2, 0.8, 10))[::-1]
        places = rng.permutation(10)
        if rng.uniform() < informative:
            first = np.flatnonzero(places == relevant)[0]
            places[[0, first]] = places[[first, 0]]
        for rank, (doc, cosine) in enumerate(zip(places, cosines, strict=True), 1):
            rows.append((f"q{q:03}", f"d{doc}", rank, 1 - cosine, int(doc) + 1, 20.0 - doc))
            grades.append((f"q{q:03}", f"d{doc}", int(doc == relevant)))
    names = ["query_id", "doc_id", "vector_rank", "_distance", "fts_rank", "_score"]
    table = pl.DataFrame(rows, names, orient="row")
    table = table.with_columns(logit=pl.Series(rng.normal(size=len(rows))))
    judged = pl.DataFrame(grades, ["query_id", "doc_id", "relevance"], orient="row")
    cost = table.select(pl.col("vector_rank", "fts_rank").cast(pl.Float64)).to_numpy()
    ids = sorted(set(table["query_id"]))
    return make_pool(table, judged, ids, cost), judged.to_arrow()


def test_every_query_is_told_once_by_a_choice_without_it() -> None:
    ids = [f"q{i}" for i in range(23)]
    parts = folds(ids)
    assert sorted(np.concatenate([held for _, held in parts.pairs])) == list(range(23))
    for chooses, held in parts.pairs:
        assert not set(chooses) & set(held) and len(chooses) + len(held) == 23
    again = folds(ids)
    assert all((a[1] == b[1]).all() for a, b in zip(parts.pairs, again.pairs, strict=True))
    [pair] = set_aside(np.array([True, False, True]), "x").pairs
    assert (pair[0].tolist(), pair[1].tolist()) == ([0, 2], [1])


def test_of_equal_settings_todays_is_the_best() -> None:
    assert best_of(np.array([[0.5, 0.5], [1.0, 0.0], [0.4, 0.7]])) == 2
    assert best_of(np.array([[0.5, 0.5], [1.0, 0.0]])) == 0


@pytest.mark.parametrize(("informative", "verdict"), [(0.9, "improved"), (0.0, "cannot tell")])
def test_only_what_holds_is_an_improvement(informative: float, verdict: str) -> None:
    pool, judged = world(120, informative)
    made = sweep(
        pool,
        judged,
        ComparisonSettings(),
        TODAY,
        ("vector", "fts", "hybrid"),
        metric="cosine",
        rate=10.0,
        parts=folds(pool.query_ids),
    )
    found = {c.family: c for c in made.choices}
    assert found["blend"].verdict == verdict, found["blend"].sentence
    assert (made.best is not None) == (verdict == "improved")
    if verdict == "improved":
        assert made.free is not None and made.free.family in ("legs", "fusion")
        assert "blend" in made.lines or "rerank: null" in made.lines
    else:
        assert "no setting holds" in made.lines and "No setting" in made.sentence
    assert found["depth"].points[0].seconds == found["depth"].points[0].pairs / 10


def test_a_choice_that_wins_only_where_it_was_made_is_said_to_be_that() -> None:
    """Chosen on queries where the cosine knows, told on queries where it does not."""
    knows, graded = world(60, 1.0, seed=1)
    blind, others = world(60, 0.0, seed=2)
    rows = []
    for name, pool in (("a", knows), ("b", blind)):
        for q, query_id in enumerate(pool.query_ids):
            for d, doc_id in enumerate(pool.doc_ids[q]):
                legs = pool.legs
                assert pool.logits is not None
                rows.append(
                    (
                        name + query_id,
                        doc_id,
                        int(legs.vector_rank[q, d]),
                        legs.distance[q, d],
                        int(legs.fts_rank[q, d]),
                        legs.bm25[q, d],
                        pool.logits[q, d],
                    )
                )
    names = ["query_id", "doc_id", "vector_rank", "_distance", "fts_rank", "_score", "logit"]
    table = pl.DataFrame(rows, names, orient="row")
    judged = pl.concat(
        [
            pl.from_arrow(t).with_columns(query_id=n + pl.col("query_id"))  # type: ignore[union-attr,list-item]
            for n, t in (("a", graded), ("b", others))
        ]
    )
    pool = make_pool(table, judged, sorted(set(table["query_id"])), knows.cost)
    chooses = np.array([q.startswith("a") for q in pool.query_ids])
    made = sweep(
        pool,
        judged.to_arrow(),
        ComparisonSettings(),
        TODAY,
        ("hybrid",),
        metric="cosine",
        rate=None,
        parts=set_aside(chooses, "of a"),
    )
    blend = next(c for c in made.choices if c.family == "blend")
    assert blend.only_where_chosen and "only on the queries" in blend.sentence


def test_queries_without_hits_count_and_legs_decide_what_is_tried() -> None:
    pool, judged = world(3, 0.5)
    bare = make_pool(
        pl.DataFrame(
            {
                "query_id": ["q000"],
                "doc_id": ["d1"],
                "vector_rank": [None],
                "_distance": [None],
                "fts_rank": [1],
                "_score": [3.0],
                "logit": [0.5],
            }
        ),
        pl.DataFrame({"query_id": ["q000", "q9"], "doc_id": ["d1", "d2"], "relevance": [1, 1]}),
        ["q000", "q9"],
        np.array([[np.inf, 1.0]]),
    )
    [measure] = parse_measures(["nDCG@10"])
    assert measured(bare, TODAY, array_measure(measure), 10).tolist() == [1.0, 0.0]
    assert ranked(bare, TODAY)[1].tolist() == [NOTHING]
    fts = Setting("fts", 10, reranked=True)
    names = {f.name for f in families(pool, fts, ("fts",), "cosine")}
    assert names == {"depth", "legs", "blend", "cut"}
    first = Setting("hybrid", 10, reranked=False)
    assert "blend" not in {f.name for f in families(pool, first, ("hybrid",), None)}


def test_what_was_refined_ranks_above_all_else() -> None:
    rows = pl.DataFrame(
        {
            "query_id": ["q"] * 3,
            "doc_id": ["a", "b", "c"],
            "vector_rank": [1, 2, 3],
            "_distance": [0.1, 0.2, 0.3],
            "fts_rank": pl.Series([None] * 3, dtype=pl.Int32),
            "_score": pl.Series([None] * 3, dtype=pl.Float32),
            "logit": [5.0, 1.0, 2.0],
            "exact": [0.0, 1.0, 1.0],
        }
    )
    judged = pl.DataFrame({"query_id": ["q"], "doc_id": ["a"], "relevance": [1]})
    pool = make_pool(rows, judged, ["q"], np.ones((3, 2)))
    setting = Setting("vector", 10, reranked=True)
    assert ranked(pool, setting).tolist() == [[2, 1, 0]]
    blend = Blend(vector=20)  # 20, 17 and 16 with the logits 23, 17 and 16
    assert ranked(pool, replace(setting, blend=blend)).tolist() == [[1, 2, 0]]
    by_ranks = Blend(method="ranks", vector=1)
    assert ranked(pool, replace(setting, blend=by_ranks)).tolist() == [[0, 1, 2]]
