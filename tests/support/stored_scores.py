"""Rows of the pair-score store as tests make them, and maintenance on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from reranking.schemas import PAIR_SCORES
from reranking.store import Database
from reranking.upkeep.maintain import Maintained, maintain


def look_after(database: Database, *, dry_run: bool = False, **settings: Any) -> Maintained:
    opened = Database(database.uri, upgrading=True)
    return maintain(opened, dry_run=dry_run, **settings)


def hashes(numbers: np.ndarray) -> pa.Array:
    return pa.array([int(n).to_bytes(16, "little") for n in numbers], pa.binary(16))


def stored_rows(seed: int, count: int = 3000, least: int = 0) -> pa.Table:
    """Scores of few enough texts that many pairs stand more than once, in several epochs."""
    rng = np.random.default_rng(seed)
    columns = {
        "query_hash": hashes(rng.integers(0, 20, count)),
        "doc_hash": hashes(rng.integers(least, least + 30, count)),
        "reranker": hashes(rng.integers(0, 2, count)),
        "score": pa.array(rng.normal(size=count).astype(np.float32)),
        "epoch": pa.array(rng.choice([0, 0, 0, 1, 3], count).astype(np.int32)),
        "tokens": pa.array(rng.integers(3, 300, count).astype(np.int32)),
    }
    return pa.table(columns).cast(PAIR_SCORES)
