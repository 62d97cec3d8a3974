"""The scores of a run's pairs, window after window of its chunks, however many there are.

To pass over the store for every window would cost the square of a long run. So one pass sorts what
the run asks for by window, and what is too much for memory waits in a file of the temporary folder,
one without a name, which is gone with the process however that ends.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections import defaultdict
from typing import IO

import polars as pl
import pyarrow as pa

from reranking.arrow import frame
from reranking.runs.pairs import COLUMNS, EMPTY, TABLE, PairScores, newest, stored_scores
from reranking.runs.run import Run

_WINDOW = 250_000  # pairs whose scores are held at once, a hundred bytes each and more
_JOINED = 100_000  # stored scores that are looked through at once
_KEPT = 250_000  # scores of other windows that are kept in memory


class RunScores(PairScores):
    """The scores of a run's pairs: one chunk's are known, and held are those of a window of chunks.

    Chunks are asked for in order, from the first or from the last: to turn round costs a pass over
    the store. What other processes store meanwhile is looked up when the store has doubled, and has
    grown by more than a window.
    """

    def __init__(self, run: Run, reranker: bytes) -> None:
        super().__init__(run.database, reranker, (), run.least_epoch)
        search = run.search
        pairs = search.chunk_queries * search.limit * len(search.legs)
        self.run, self.chunk, self.window = run, -1, -1
        self.chunks = max(1, _WINDOW // pairs)  # of a window
        self.held = EMPTY
        self.windows: _Windows | None = None

    def forget_window(self) -> None:
        """Look the next chunk's scores up again: another process has added some."""
        self.window, self.chunk, self.windows = -1, -1, None

    def cover(self, chunk: int) -> bool:
        """Know the stored scores of the chunk, and hold those of its window.

        Returns whether they were looked up in the store just now.
        """
        if chunk == self.chunk:
            return False
        looked_up = False
        before, self.window = self.window, chunk // self.chunks
        if self.window != before:
            self.known = self.held = EMPTY  # not held beside what takes their place
            if self.windows is None or not self.windows.are_of_use(self.window):
                self.windows, looked_up = None, True
                # From the first there is nothing to come but forwards.
                self.windows = _Windows(self, backwards=0 < self.window < before)
            self.held = self.windows.take(self.window)
        self.chunk = chunk
        hashes = self.run.query_rows.column("text_hash")
        size = self.run.search.chunk_queries
        asked = pl.DataFrame({"query_hash": hashes.slice(chunk * size, size).to_pylist()})
        self.known = self.held.join(asked.unique(), on="query_hash", how="semi")
        return looked_up

    def _learn(self, rows: pl.DataFrame) -> None:
        super()._learn(rows)
        self.held = pl.concat([self.held, rows])
        if self.windows is not None:
            self.windows.add(rows)


class _Windows:
    """What was stored of the pairs of this window and of those to come; each is taken once.

    Windows are numbered in the order in which they come, this one is 0.
    """

    def __init__(self, scores: RunScores, *, backwards: bool) -> None:
        self._database, run = scores.database, scores.run
        self._first, self._step = scores.window, -1 if backwards else 1
        queries = scores.chunks * run.search.chunk_queries
        asked = pl.DataFrame({"query_hash": run.query_rows.column("text_hash")})
        window = (pl.int_range(pl.len()) // queries - self._first) * self._step
        to_come = asked.with_columns(window=window.cast(pl.Int32)).filter(pl.col("window") >= 0)
        self._asked = to_come.unique(maintain_order=True)
        self._several = bool((to_come["window"] > 0).any())
        repeated = self._asked.filter(pl.col("query_hash").is_duplicated())
        self._repeated = repeated.select("query_hash").unique()
        self._next = 0
        self._kept = EMPTY.with_columns(window=pl.lit(0, pl.Int32))
        self._file: IO[bytes] | None = None
        self._places: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        self._stored = self._rows_stored()
        self._pass(scores)

    def are_of_use(self, window: int) -> bool:
        """Whether the window is still here, and little has been stored since."""
        grown = self._rows_stored() - self._stored
        return self._number(window) >= self._next and grown <= max(_WINDOW, self._stored)

    def _number(self, window: int) -> int:
        return (window - self._first) * self._step

    def add(self, rows: pl.DataFrame) -> None:
        """Take in scores made meanwhile: of texts that are asked for in other windows, too."""
        if len(self._repeated):
            self._put(rows.join(self._repeated, on="query_hash", how="semi"))

    def take(self, window: int) -> pl.DataFrame:
        """The scores of a window; those up to it are let go of."""
        number = self._number(window)
        self._next = number + 1
        parts = [self._kept.filter(pl.col("window") == number).select(list(COLUMNS))]
        self._kept = self._kept.filter(pl.col("window") > number)
        for start, size in self._places.pop(number, []):
            assert self._file is not None
            self._file.seek(start)
            with pa.ipc.open_stream(self._file.read(size)) as stored:
                parts.append(frame(stored.read_all()).select(list(COLUMNS)))
        return newest(pl.concat(parts))

    def _rows_stored(self) -> int:
        table = self._database.open(TABLE)
        return 0 if table is None else int(table.count_rows())

    def _pass(self, scores: RunScores) -> None:
        waiting: list[pl.DataFrame] = []
        for rows in stored_scores(self._database, scores.reranker, scores.least_epoch):
            waiting.append(rows)
            if sum(map(len, waiting)) >= _JOINED:
                self._put(pl.concat(waiting))
                waiting.clear()
        self._put(pl.concat([EMPTY, *waiting]))

    def _put(self, rows: pl.DataFrame) -> None:
        rows = rows.join(self._asked, on="query_hash", how="inner", maintain_order="left")
        self._kept = pl.concat([self._kept, rows])
        if len(self._kept) > _KEPT and self._several:
            self._write()

    def _write(self) -> None:
        """Move what is kept to the file, a piece for each window."""
        if self._file is None:
            self._file = tempfile.TemporaryFile()
            weakref.finalize(self, self._file.close)
        self._file.seek(0, os.SEEK_END)
        for (window,), rows in self._kept.group_by("window", maintain_order=True):
            start, table = self._file.tell(), rows.to_arrow()
            with pa.ipc.new_stream(self._file, table.schema) as written:
                written.write_table(table)
            self._places[int(str(window))].append((start, self._file.tell() - start))
        self._kept = self._kept.clear()
