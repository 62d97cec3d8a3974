"""Which document ids are known: 33 bytes per stored row, 16 per new one, looked up by window."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from reranking.fingerprints import SIZE, text_hash

Words = NDArray[np.uint64]


class IdIndex:
    """A set of ids by their 128-bit hash, each with a 128-bit value.

    Python's own dict would take about 200 bytes per row. Lookups search the first hash word and
    compare the second, so that two ids never pass for one unless all 128 bits agree.
    """

    def __init__(self) -> None:
        self._first: Words = np.empty(0, np.uint64)
        self._second: Words = np.empty(0, np.uint64)
        self._values: NDArray[np.void] = np.empty(0, f"V{SIZE}")
        self._longest_run = 1

    def __len__(self) -> int:
        return len(self._first)

    def add(self, hashes: Words, values: NDArray[np.void] | None = None) -> None:
        """Add ids given as (n, 2) hash words that are not in the index yet."""
        if values is None:
            values = np.empty(0, f"V{SIZE}")
        first = np.concatenate([self._first, hashes[:, 0]])
        order = np.argsort(first, kind="stable")
        self._first = first[order]
        self._second = np.concatenate([self._second, hashes[:, 1]])[order]
        if len(values):
            self._values = np.concatenate([self._values, values])[order]
        if len(first) > 1:
            self._longest_run = _longest_run(self._first)

    def find(self, hashes: Words) -> NDArray[np.int64]:
        """The position of each id in the index, -1 where it is not there."""
        positions = np.full(len(hashes), -1, np.int64)
        if not len(self._first):
            return positions
        start = np.searchsorted(self._first, hashes[:, 0])
        for step in range(self._longest_run):
            at = np.minimum(start + step, len(self._first) - 1)
            hit = (self._first[at] == hashes[:, 0]) & (self._second[at] == hashes[:, 1])
            positions[hit] = at[hit]
        return positions

    def values(self, positions: NDArray[np.int64]) -> NDArray[np.void]:
        """The values at positions that `find` returned."""
        return self._values[positions]


def id_words(ids: Iterable[str]) -> Words:
    """(n, 2) hash words of ids."""
    return np.frombuffer(b"".join(text_hash(i) for i in ids), np.uint64).reshape(-1, 2)


def hash_values(hashes: Sequence[bytes]) -> NDArray[np.void]:
    """Hashes of 16 bytes as an array whose elements compare by value."""
    return np.frombuffer(b"".join(hashes), f"V{SIZE}")


def _longest_run(ordered: Words) -> int:
    edges = np.flatnonzero(np.diff(ordered)) + 1
    bounds = np.concatenate([[0], edges, [len(ordered)]])
    return int(np.diff(bounds).max())
