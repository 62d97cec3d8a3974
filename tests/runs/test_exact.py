"""Exact vector search against LanceDB's own flat search, whose distances it has."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import get_args

import lancedb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from configs.schema import Metric
from reranking.runs import exact
from reranking.runs.exact import Nearest, OnCpu, OnDevice, Product, vectors_of

Floats = NDArray[np.float32]
WIDTH, LIMIT = 24, 12
PRODUCTS = [OnCpu(), OnDevice("cpu")]


def column(vectors: NDArray[np.floating]) -> pa.Array:
    """A vector column; a row of NaN is null."""
    kind = pa.list_(pa.from_numpy_dtype(vectors.dtype), vectors.shape[1])
    return pa.array([None if np.isnan(v).all() else v for v in vectors], kind)


def nearest(
    stored: pa.Array,
    asked: Floats,
    metric: Metric,
    limit: int = LIMIT,
    product: Product = PRODUCTS[0],
    block: int = 64,
) -> pl.DataFrame:
    """The hits among rows with the ids d0, d1, ..., seen in blocks."""
    search = Nearest(asked, limit, metric, product)
    for start in range(0, len(stored), block):
        vectors, filled = vectors_of(stored.slice(start, block))
        search.see(vectors, partial(describe, start + filled))
    return search.hits()


def describe(numbers: NDArray[np.int64], rows: NDArray[np.int64]) -> pl.DataFrame:
    ids = [f"d{n}" for n in numbers[rows]]
    return pl.DataFrame({"doc_id": ids, "doc_hash": [i.encode() for i in ids]})


@pytest.mark.parametrize("product", PRODUCTS, ids=["numpy", "torch"])
@pytest.mark.parametrize("kind", [np.float32, np.float16, np.float64])
@pytest.mark.parametrize("metric", get_args(Metric))
def test_it_is_lancedbs_flat_search(
    tmp_path: Path, metric: Metric, kind: type[np.floating], product: Product
) -> None:
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(700, WIDTH)).astype(kind)
    vectors[3], vectors[4] = 0, np.nan  # no direction, no vector
    vectors[200:230] = vectors[100]  # equal ones
    asked = rng.normal(size=(9, WIDTH)).astype(np.float32)
    asked[0], asked[1] = vectors[100], 0
    stored = column(vectors)
    rows = pa.table({"id": [f"d{n}" for n in range(700)], "vector": stored})
    table = lancedb.connect(tmp_path).create_table("t", rows, on_bad_vectors="null")
    ours = nearest(stored, asked.astype(kind).astype(np.float32), metric, product=product)
    query = table.search(asked, vector_column_name="vector").distance_type(metric)
    theirs = query.limit(700).select(["id", "_distance"]).to_arrow()
    every = pl.DataFrame(pl.from_arrow(theirs)).rename({"query_index": "query", "id": "doc_id"})
    first = every.sort("query", "_distance", "doc_id").group_by("query").head(LIMIT)
    assert (
        ours.group_by("query")
        .len()
        .sort("query")
        .equals(first.group_by("query").len().cast({"query": pl.Int64}).sort("query"))
    )
    both = ours.join(every.cast({"query": pl.Int64}), on=["query", "doc_id"], suffix="_theirs")
    assert len(both) == len(ours)
    gap = (both["_distance"] - both["_distance_theirs"]).abs()
    assert (gap <= 5e-7 * both["_distance_theirs"].abs().clip(1)).all(), gap.max()
    worst = first.group_by("query").agg(pl.col("_distance").max()).cast({"query": pl.Int64})
    kept = ours.join(worst, on="query", suffix="_worst")
    assert (kept["_distance"] <= kept["_distance_worst"] + 1e-5).all()
    if metric != "dot":  # whose least is not at the query's own vector
        equal = sorted(f"d{n}" for n in (100, *range(200, 230)))
        assert ours.filter(pl.col("query") == 0)["doc_id"].to_list() == equal[:LIMIT]


@settings(max_examples=50)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 120),
    block=st.integers(1, 50),
    limit=st.integers(1, 30),
    metric=st.sampled_from(get_args(Metric)),
    torch=st.booleans(),
)
def test_blocks_and_order_do_not_matter(
    seed: int, rows: int, block: int, limit: int, metric: Metric, torch: bool
) -> None:
    rng = np.random.default_rng(seed)
    few = rng.integers(-1, 2, size=(rows, 3)).astype(np.float32)  # many equal vectors
    asked = rng.normal(size=(4, 3)).astype(np.float32)
    hits = nearest(column(few), asked, metric, limit, PRODUCTS[torch], block)
    exactly, wanted = few.astype(np.float64), asked.astype(np.float64)
    for q in range(4):
        with np.errstate(invalid="ignore"):
            distance = {
                "cosine": 1
                - exactly
                @ wanted[q]
                / (np.linalg.norm(exactly, axis=1) * np.linalg.norm(wanted[q])),
                "l2": ((exactly - wanted[q]) ** 2).sum(1),
                "dot": 1 - exactly @ wanted[q],
            }[metric]
        order = sorted(
            (float(np.float32(round(d, 9))), f"d{n}")
            for n, d in enumerate(distance)
            if np.isfinite(d)
        )
        mine = hits.filter(pl.col("query") == q)
        assert np.allclose(mine["_distance"], [d for d, _ in order[:limit]], atol=1e-6)
        assert mine["rank"].to_list() == list(range(1, len(order[:limit]) + 1))


@pytest.mark.parametrize("product", PRODUCTS, ids=["numpy", "torch"])
def test_equal_vectors_end_by_id_wherever_they_stand(product: Product) -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(size=(1, 384)).astype(np.float32)
    vectors = np.repeat(one, 5000, axis=0)
    asked = rng.normal(size=(3, 384)).astype(np.float32)
    hits = nearest(column(vectors), asked, "cosine", 20, product, block=exact.ROWS)
    first = sorted(f"d{n}" for n in range(5000))[:20]
    assert hits["doc_id"].to_list() == first * 3
    assert hits["_distance"].n_unique() == 3


def test_many_queries_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    stored = column(rng.normal(size=(300, WIDTH)).astype(np.float32))
    asked = rng.normal(size=(50, WIDTH)).astype(np.float32)
    whole = nearest(stored, asked, "l2")
    monkeypatch.setattr(exact, "_QUERIES", 7)
    monkeypatch.setattr(exact, "_PAIRS", 11)
    assert nearest(stored, asked, "l2").equals(whole)


def test_nothing_is_found_in_nothing() -> None:
    asked = np.ones((2, WIDTH), np.float32)
    assert len(nearest(column(np.empty((0, WIDTH), np.float32)), asked, "dot")) == 0
    assert len(nearest(column(np.full((3, WIDTH), np.nan, np.float32)), asked, "dot")) == 0
