"""Exact vector search as a matrix product: blocks of the vector column times all query vectors.

The product only says which rows may be among the nearest; their distances are computed anew in
float64, so that equal vectors have equal distances wherever they stand, and ties end by id.
Distances are LanceDB's: 1 - cosine (`cosine`), the squared distance (`l2`), 1 - dot product
(`dot`). Rows without a vector are not found, nor what has no direction under `cosine`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from configs.schema import Metric

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

ROWS = 8192  # of a block
_QUERIES = 1024  # multiplied with a block at once
_PAIRS = 4096  # whose distances are computed at once
_HITS = {"query": pl.Int64, "_distance": pl.Float32, "doc_id": pl.String, "doc_hash": pl.Binary}


class Product(Protocol):
    """Multiplies query vectors (q, d) with the rows of a block (n, d)."""

    def best(self, queries: Floats, block: Floats, limit: int) -> Floats:
        """The `limit`-th largest product of each query."""

    def at_least(self, queries: Floats, block: Floats, bound: Floats) -> tuple[Integers, Integers]:
        """Query and row of each product that is not below its query's bound."""


class OnCpu:
    """Products by numpy."""

    def best(self, queries: Floats, block: Floats, limit: int) -> Floats:
        """The `limit`-th largest product of each query."""
        products = queries @ block.T
        products[np.isnan(products)] = -np.inf
        return np.asarray(np.partition(products, -limit, axis=1)[:, -limit])

    def at_least(self, queries: Floats, block: Floats, bound: Floats) -> tuple[Integers, Integers]:
        """Query and row of each product that is not below its query's bound."""
        # `nonzero` of a table takes five times as long.
        near = np.flatnonzero(queries @ block.T >= bound[:, None])
        query, row = np.divmod(near, len(block))
        return query, row


class OnDevice:
    """Products by torch on a device."""

    def __init__(self, device: str) -> None:
        self.device = device

    def best(self, queries: Floats, block: Floats, limit: int) -> Floats:
        """The `limit`-th largest product of each query."""
        products = self._products(queries, block).nan_to_num(nan=float("-inf"))
        return np.asarray(products.topk(limit, dim=1).values[:, -1].cpu().numpy())

    def at_least(self, queries: Floats, block: Floats, bound: Floats) -> tuple[Integers, Integers]:
        """Query and row of each product that is not below its query's bound."""
        import torch

        least = torch.from_numpy(bound).to(self.device)
        query, row = (self._products(queries, block) >= least[:, None]).nonzero(as_tuple=True)
        return query.cpu().numpy(), row.cpu().numpy()

    def _products(self, queries: Floats, block: Floats) -> torch.Tensor:
        import torch

        left, right = (torch.tensor(a, device=self.device) for a in (queries, block))
        return left @ right.T


def product_on(device: str) -> Product:
    """What multiplies on the device: torch on a CUDA device, else numpy on the CPU."""
    return OnDevice(device) if device.startswith("cuda") else OnCpu()


class Nearest:
    """The `limit` nearest rows of each query vector among the blocks seen so far.

    vectors: (q, d) float32, in the precision of the column that is searched. Memory grows with
    q x limit and one block.
    """

    def __init__(
        self, vectors: Floats, limit: int, metric: Metric, product: Product | None = None
    ) -> None:
        self.limit, self.metric = limit, metric
        self.product: Product = product or OnCpu()
        self.exact = vectors.astype(np.float64)
        self.squares = _dots(self.exact, self.exact)
        self.asked = self._prepared_queries(vectors)
        self.length = np.linalg.norm(self.asked.astype(np.float64), axis=1)
        # The least product that is of interest; none of a query without a direction.
        self.bound = np.where(np.isnan(self.length), np.inf, -np.inf)
        self.kept = pl.DataFrame(schema=_HITS)
        self.pending: list[pl.DataFrame] = []

    def see(self, vectors: Floats, describe: Callable[[Integers], pl.DataFrame]) -> None:
        """Take in a block of vectors (n, d); `describe` gives `doc_id` and `doc_hash` of rows."""
        block, usable = self._prepared_block(vectors)
        if not len(block):
            return
        slack = self._slack(block)
        for start in range(0, len(self.asked), _QUERIES):
            part = slice(start, start + _QUERIES)
            if len(block) >= self.limit and np.isneginf(self.bound[part]).any():
                best = self.product.best(self.asked[part], block, self.limit)
                self.bound[part] = np.maximum(self.bound[part], best - slack[part])
            bound = (self.bound[part] - slack[part]).astype(np.float32)
            query, row = self.product.at_least(self.asked[part], block, bound)
            if len(query):
                self._add(query + start, usable[row], vectors, describe)
        if sum(map(len, self.pending)) >= len(self.asked) * self.limit:
            self._merge()

    def hits(self) -> pl.DataFrame:
        """The hits: query int64, doc_id, doc_hash, rank int32 from 1, _distance float32."""
        self._merge()
        rank = pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("query")
        return self.kept.select("query", "doc_id", "doc_hash", rank.alias("rank"), "_distance")

    def _add(
        self,
        query: Integers,
        row: Integers,
        vectors: Floats,
        describe: Callable[[Integers], pl.DataFrame],
    ) -> None:
        parts = [slice(i, i + _PAIRS) for i in range(0, len(query), _PAIRS)]
        distance = np.concatenate([self._distances(query[p], vectors[row[p]]) for p in parts])
        rows, at = np.unique(row, return_inverse=True)
        hits = describe(rows)[at]
        hits = hits.with_columns(query=pl.Series(query), _distance=pl.Series(distance))
        self.pending.append(hits.filter(pl.col("_distance").is_finite()).select(list(_HITS)))

    def _merge(self) -> None:
        """Cut what is known to the nearest; what is farther is of no interest from now on."""
        hits = pl.concat([self.kept, *self.pending]).sort("query", "_distance", "doc_id")
        self.kept = hits.filter(pl.int_range(pl.len()).over("query") < self.limit)
        self.pending.clear()
        full = self.kept.group_by("query").agg(pl.len(), pl.col("_distance").last())
        full = full.filter(pl.col("len") == self.limit)
        at, farthest = full["query"].to_numpy(), full["_distance"].to_numpy().astype(np.float64)
        origin = self.squares[at] if self.metric == "l2" else 1.0
        # A hit's distance was rounded to float32: what rounds to the same is of interest, too.
        self.bound[at] = origin - farthest - np.abs(farthest) * 2.0**-22

    def _prepared_queries(self, vectors: Floats) -> Floats:
        if self.metric == "l2":  # the larger 2qx - xx, the smaller qq - 2qx + xx
            return np.hstack([2 * vectors, np.full((len(vectors), 1), -1, np.float32)])
        if self.metric == "cosine":
            return _directions(vectors)
        return vectors

    def _prepared_block(self, vectors: Floats) -> tuple[Floats, Integers]:
        """The block as it is multiplied, and which of its rows that are."""
        usable = np.arange(len(vectors))
        if self.metric == "l2":
            squares = np.einsum("ij,ij->i", vectors, vectors)
            return np.hstack([vectors, squares[:, None]]), usable
        if self.metric == "cosine":
            usable = np.flatnonzero(vectors.any(axis=1))
            return _directions(vectors[usable] if len(usable) < len(vectors) else vectors), usable
        return vectors, usable

    def _slack(self, block: Floats) -> NDArray[np.float64]:
        """How far a float32 product may be from the true one, per query.

        Summing d products errs by at most d/2 units in the last place of the product of lengths
        (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1); this is four times
        as much, for the directions are rounded as well.
        """
        longest = np.sqrt(np.einsum("ij,ij->i", block, block, dtype=np.float64).max(initial=0.0))
        slack: NDArray[np.float64] = self.length * longest * (block.shape[1] + 8) * 2.0**-22
        return slack

    def _distances(self, query: Integers, vectors: Floats) -> Floats:
        left, right = self.exact[query], vectors.astype(np.float64)
        if self.metric == "l2":
            return _dots(left - right, left - right).astype(np.float32)
        products = _dots(left, right)
        if self.metric == "cosine":
            products /= np.sqrt(self.squares[query] * _dots(right, right))
        return (1 - products).astype(np.float32)


def _dots(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    products: NDArray[np.float64] = np.einsum("ij,ij->i", left, right)
    return products


def _directions(vectors: Floats) -> Floats:
    """The vectors at length 1; not a number for one that has no direction."""
    with np.errstate(invalid="ignore", divide="ignore"):
        directions: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return directions


def vectors_of(column: pa.Array) -> tuple[Floats, Integers]:
    """A fixed-size list column as (n, d) float32, and the rows that these are: null is left out."""
    rows = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
    values = column.drop_null().flatten()
    return values.to_numpy(zero_copy_only=False).astype(np.float32, copy=False).reshape(
        len(rows), column.type.list_size
    ), rows
