"""How many bytes rows have: windows and commits of a bounded size, and what LanceDB can index."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from heapq import heappush, heappushpop
from typing import Final

from reranking import arrow
from reranking.errors import InputError
from reranking.sources.rows import Reject, Row

VARIABLE: Final = "LANCE_DEFAULT_BATCH_SIZE"  # LanceDB's own: rows that it reads at once
_ROWS: Final = 8192  # without it
_MOST: Final = 2**31 - 1  # bytes of text in one Arrow array


def weight(value: object) -> int:
    """Count the characters of texts, at any depth, and 8 for whatever else."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(weight, value.values()))
    if isinstance(value, list | tuple):
        return 8 * len(value) if value and isinstance(value[0], float) else sum(map(weight, value))
    return 8


def windows(rows: Iterator[Row | Reject], size: int) -> Iterator[list[Row | Reject]]:
    """The rows in lists of at most `size`, and of bounded bytes: they are held in memory."""
    window: list[Row | Reject] = []
    held = 0
    for row in rows:
        window.append(row)
        held += weight(row.values) if isinstance(row, Row) else 0
        if len(window) >= size or held >= arrow.BATCH_BYTES:
            yield window
            window, held = [], 0
    if window:
        yield window


class LongestTexts:
    """Sees all texts of a source, and says whether LanceDB will be able to index them.

    It reads so many rows of a table at once, whichever they are, and holds at most 2 GiB of text.
    """

    def __init__(self) -> None:
        given = os.environ.get(VARIABLE, "")
        self.rows = max(int(given), 1) if given.isdigit() else _ROWS
        self._sizes: list[int] = []

    def see(self, text: object) -> None:
        """Take in one text."""
        if isinstance(text, str):
            size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
            if len(self._sizes) < self.rows:
                heappush(self._sizes, size)
            else:
                heappushpop(self._sizes, size)

    def check(self) -> None:
        """Raise InputError if the longest texts together are too much."""
        if sum(self._sizes) <= _MOST:
            return
        rows, sizes = self.rows, sorted(self._sizes, reverse=True)
        while rows > 1 and sum(sizes[:rows]) > _MOST // 2:  # with room for texts to come
            rows //= 2
        raise InputError(
            f"the {len(sizes):,} longest texts of the source have {sum(sizes) / 1e9:.1f} GB "
            f"together: LanceDB reads {self.rows:,} rows at once to index a table, and holds at "
            "most 2 GiB of their text. Nothing was written. Set the environment variable "
            f"{VARIABLE}={rows} for rescore and for whoever else optimizes the table, or ingest "
            "the texts in shorter parts (parent_id, start, end)"
        )
