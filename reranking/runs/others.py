"""Other commands on the same run, without leases: how a second one goes, and how both notice.

A command that takes up a run which another may be at goes through it from the end. A command that
sees scores come for chunks that it has not handed out is not alone: from then on what is about to
be scored is looked up again before. So what is done twice is what both have in hand where they
meet.
"""

from __future__ import annotations

import logging
import math
import time
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reranking.progress import NOTICE
from reranking.runs.pairs import TABLE
from reranking.runs.run import Run

log = logging.getLogger(__name__)

_SILENT = 600.0  # seconds without a sign after which nobody is thought to be at a run
_LOOK = 5.0  # seconds between two looks at what was stored
_SAMPLE = 64  # rows of what came meanwhile


def order_of_chunks(run: Run) -> list[int]:
    """Return the run's chunks in the order in which they are worked on.

    It is their own unless another command may be at them: then it is the other way round, but for
    those that are searched already, whose candidates are read in one pass.
    """
    sign = run.last_sign
    if sign is None or (datetime.now(UTC) - sign).total_seconds() > _SILENT:
        return run.chunks
    new = [chunk for chunk in reversed(run.chunks) if chunk not in run.marks]
    searched = [chunk for chunk in run.chunks if chunk in run.marks]
    log.log(
        NOTICE,
        "another command may be at work on run %s: this one goes through it from the end",
        run.run_id[:8],
    )
    return new + searched if new else searched[::-1]


class Others:
    """Whether another command scores pairs of the run, by what the store is given meanwhile."""

    def __init__(self, run: Run) -> None:
        self._run, self._given = run, set[int]()
        self._rerankers = {bytes.fromhex(name) for name in (run.reranker, run.refiner) if name}
        self._rows = 0
        self._looked, self._seen = -math.inf, -math.inf
        self._are_there()

    def give(self, chunk: int) -> bool:
        """Note that a chunk is handed out; whether others may be at it."""
        self._given.add(chunk)
        if time.monotonic() - self._looked >= _LOOK and self._are_there():
            if self._seen == -math.inf:
                log.log(
                    NOTICE,
                    "another command scores pairs of run %s: what it has stored is looked up",
                    self._run.run_id[:8],
                )
            self._seen = time.monotonic()
        return time.monotonic() - self._seen < _SILENT

    def _are_there(self) -> bool:
        """Whether scores came, since the last look, for queries of chunks that were not given."""
        if not self._rerankers:
            return False
        self._looked = time.monotonic()
        try:
            hashes = self._sample()
        except Exception as error:  # a store that is away is told by those who need it
            log.debug("table %s could not be looked at: %s", TABLE, error)
            return False
        if not hashes or not self._given:
            return False
        asked = self._run.query_rows.column("text_hash")
        chunks_of: dict[bytes, set[int]] = {}
        for at in pc.indices_nonzero(pc.is_in(asked, pa.array(hashes, asked.type))).to_pylist():
            chunk = at // self._run.search.chunk_queries
            chunks_of.setdefault(asked[at].as_py(), set()).add(chunk)
        return any(not chunks & self._given for chunks in chunks_of.values())

    def _sample(self) -> list[bytes]:
        """The queries of some of the scores that came since the last look."""
        table = self._run.database.open(TABLE)
        before, self._rows = self._rows, 0 if table is None else table.count_rows()
        if self._rows <= before:
            return []
        places = np.unique(np.linspace(before, self._rows - 1, _SAMPLE, dtype=np.int64))
        rows = table.take_offsets(places.tolist()).select(["query_hash", "reranker"]).to_arrow()
        return [row["query_hash"] for row in rows.to_pylist() if row["reranker"] in self._rerankers]
