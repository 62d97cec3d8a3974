"""Which pairs of a run are longer than its reranker reads, counted from what is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from reranking.arrow import frame
from reranking.runs.candidates import each_chunk
from reranking.runs.pairs import KEY
from reranking.runs.ranking import rows_of
from reranking.runs.run import Run
from reranking.runs.run_scores import RunScores

ALL = "all"  # of a run's pairs, whatever query type they are of
_COUNTED = ("pairs", "truncated", "tokens", "tokens_lost", "unknown")


class PairLengths:
    """Counts a run's pairs by their tokens, chunk by chunk: reused ones too, each pair once.

    `limit` is what the reranker reads, None if it does not say. Pairs whose tokens nobody stored
    are unknown: those that earlier versions scored, and those of a tokenizer or a server that does
    not tell.
    """

    def __init__(self, run: Run, store: RunScores, limit: int | None) -> None:
        self.run, self.store, self.limit = run, store, limit
        self._chunks: dict[int, dict[str, dict[str, int]]] = {}

    def see(self, chunk: int, candidates: pa.Table) -> None:
        """Count the chunk's pairs; those that were counted before are counted anew."""
        self.store.cover(chunk)
        names = [*KEY, "vector_rank", "fts_rank"]
        rows = self.store.tokens_of(frame(candidates.select(names)))
        if self.limit is None:
            rows = rows.with_columns(tokens=pl.lit(None, pl.Int32))
        views = [(str(t), rows_of(rows, t)) for t in self.run.search.query_types]
        self._chunks[chunk] = {t: self._counted(view) for t, view in [*views, (ALL, rows)]}

    def counts(self) -> dict[str, int]:
        """The counts as a run stores them, chunks that nobody showed counted now."""
        if len(self._chunks) < len(self.run.chunks):
            for chunk, candidates in each_chunk(self.run):
                if chunk not in self._chunks:
                    self.see(chunk, candidates)
        return {
            _stored(name, view): sum(chunk[view][name] for chunk in self._chunks.values())
            for view in (ALL, *self.run.search.query_types)
            for name in _COUNTED
            if (name, view) != ("pairs", ALL)  # a run counts these in any case
        }

    def _counted(self, view: pl.DataFrame) -> dict[str, int]:
        pairs = view.unique(KEY)["tokens"]
        known = pairs.drop_nulls().cast(pl.Int64)
        read = known.clip(upper_bound=self.limit)
        return {
            "pairs": len(pairs),
            "truncated": int((known > read).sum()),
            "tokens": int(read.sum()),
            "tokens_lost": int((known - read).sum()),
            "unknown": int(pairs.null_count()),
        }


def _stored(name: str, view: str) -> str:
    name = {"tokens": "tokens_read", "unknown": "tokens_unknown"}.get(name, name)
    return name if view == ALL else f"{name}_{view}"


def is_length(name: str) -> bool:
    """Whether a run's count of that name is one of its pairs' lengths."""
    return name.startswith(("pairs_", "truncated", "tokens_"))


def lengths_of(
    counts: Mapping[str, float], query_types: Sequence[str]
) -> dict[str, dict[str, Any]] | None:
    """What a run's stored counts say of its pairs' lengths, of all pairs and by query type.

    Each has pairs, truncated, tokens (read by the model), tokens_lost, unknown, and `share` of the
    known pairs that are truncated, None if none is known. None for a run of an earlier version,
    and for one without a reranker.
    """
    if "tokens_unknown" not in counts:
        return None
    lengths: dict[str, dict[str, Any]] = {}
    for view in (ALL, *query_types):
        row: dict[str, Any] = {n: int(counts.get(_stored(n, view), 0)) for n in _COUNTED}
        known = row["pairs"] - row["unknown"]
        lengths[view] = row | {"share": row["truncated"] / known if known else None}
    return lengths


def in_words(row: Mapping[str, Any]) -> str:
    """One of `lengths_of`, as people read it."""
    known = row["pairs"] - row["unknown"]
    if not known:
        return "unknown"
    text = f"{row['truncated']:,} of {known:,} pairs"
    if row["truncated"]:
        text += f" ({row['share']:.1%}), {row['tokens_lost']:,} tokens lost"
    return text + (f"; {row['unknown']:,} unknown" if row["unknown"] else "")
