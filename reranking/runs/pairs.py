"""The pair-score store: which pairs were scored by a reranker, and with what logit."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from reranking.arrow import frame
from reranking.errors import RuntimeFailure
from reranking.fingerprints import text_hash
from reranking.store import Database, equals

log = logging.getLogger(__name__)

TABLE = "pair_scores"
KEY = ["query_hash", "doc_hash"]
COLUMNS = {
    **dict.fromkeys(KEY, pl.Binary),
    "score": pl.Float32,
    "epoch": pl.Int32,
    "tokens": pl.Int32,
}
EMPTY = pl.DataFrame(schema=COLUMNS)


class PairScores:
    """The scores of one reranker for some queries, and those added meanwhile.

    Built with one streamed pass over the store; memory grows with the queries, not with the store.
    """

    def __init__(
        self, database: Database, reranker: bytes, queries: Iterable[bytes], least_epoch: int = 0
    ) -> None:
        self.database, self.reranker, self.least_epoch = database, reranker, least_epoch
        self.known = self._look_up(set(queries))

    def missing(self, pairs: pl.DataFrame) -> pl.DataFrame:
        """The pairs (query_hash, doc_hash) that have no score yet."""
        return pairs.join(self.known, on=KEY, how="anti")

    def of(self, pairs: pl.DataFrame) -> pl.DataFrame:
        """The pairs that have a score, with it."""
        return pairs.join(self.known.select(*KEY, "score"), on=KEY, how="inner")

    def tokens_of(self, pairs: pl.DataFrame) -> pl.DataFrame:
        """The pairs with the tokens of each, null where they are not known."""
        return pairs.join(self.known.select(*KEY, "tokens"), on=KEY, how="left")

    def add(self, pairs: pl.DataFrame, epoch: int) -> None:
        """Commit scored pairs (query_hash, doc_hash, score, perhaps tokens) and know them.

        Scores that are not finite are left out; raises RuntimeFailure that counts and names them
        once the others are committed.
        """
        finite = pairs.filter(pl.col("score").is_finite())
        if len(finite):
            self._commit(finite, epoch)
        if len(finite) < len(pairs):
            bad = pairs.filter(pl.col("score").is_finite().fill_null(False).not_())
            first = f"document {bad['doc_id'][0]!r}" if "doc_id" in bad.columns else "a document"
            raise RuntimeFailure(
                f"reranker {self.reranker.hex()[:8]} gave {len(bad)} of {len(pairs)} pairs a score "
                f"that is not a finite number ({bad['score'][0]} for {first}); they are not "
                "stored. Try rerank.precision: float32, or look at the model's weights."
            )

    def _look_up(self, hashes: set[bytes]) -> pl.DataFrame:
        if not hashes:
            return EMPTY
        asked = pl.DataFrame({"query_hash": pl.Series(list(hashes), dtype=pl.Binary)})
        parts = [
            rows.join(asked, on="query_hash", how="semi")
            for rows in stored_scores(self.database, self.reranker, self.least_epoch)
        ]
        return newest(pl.concat([EMPTY, *parts]))

    def _commit(self, pairs: pl.DataFrame, epoch: int) -> None:
        count = len(pairs)
        if "tokens" not in pairs.columns:
            pairs = pairs.with_columns(tokens=pl.lit(None, pl.Int32))
        rows = pairs.with_columns(epoch=pl.lit(epoch, pl.Int32)).select(list(COLUMNS)).to_arrow()
        marks = pa.array([self.reranker] * count, pa.binary(16))
        self.database.append(TABLE, rows.append_column("reranker", marks))
        self._learn(frame(rows))

    def _learn(self, rows: pl.DataFrame) -> None:
        self.known = pl.concat([self.known, rows])


class Commits:
    """Collects scores as they come and commits them every `seconds`; `committed` is told of it."""

    def __init__(
        self,
        store: PairScores,
        pairs: pl.DataFrame,
        epoch: int,
        seconds: float,
        committed: Callable[[], None] = lambda: None,
    ) -> None:
        self.store, self.pairs, self.epoch, self.seconds = store, pairs, epoch, seconds
        self.committed = committed
        # A batch is taken whole or not at all: a signal may come at any moment.
        self._batches: list[tuple[NDArray[np.int64], NDArray[np.float32], pl.Series]] = []
        self._last = time.monotonic()

    def add(
        self,
        positions: NDArray[np.int64],
        logits: NDArray[np.float32],
        tokens: NDArray[np.int64] | None = None,
    ) -> None:
        """Take a batch of the pairs at these positions; commit if it is time."""
        known = [None] * len(positions) if tokens is None else tokens
        self._batches.append((positions, logits, pl.Series("tokens", known, pl.Int32)))
        if time.monotonic() - self._last >= self.seconds:
            self.flush()

    def flush(self) -> None:
        """Commit what was collected."""
        if self._batches:
            positions, logits, tokens = zip(*self._batches, strict=True)
            scored = self.pairs[np.concatenate(positions)].with_columns(
                pl.Series("score", np.concatenate(logits)), pl.concat(tokens)
            )
            self._batches = []
            self.store.add(scored, self.epoch)
            self.committed()
        self._last = time.monotonic()


def distinct_pairs(candidates: pa.Table) -> pl.DataFrame:
    """The candidates' distinct (query_hash, doc_hash), each with one doc_id that has the text."""
    rows = frame(candidates.select([*KEY, "doc_id"]))
    return rows.unique(KEY, keep="first", maintain_order=True)


def stored_scores(database: Database, reranker: bytes, least_epoch: int) -> Iterator[pl.DataFrame]:
    """The stored scores of a reranker in one pass: COLUMNS, a part of the rows at a time.

    Scores that are not finite are left out, and counted in a warning at the end.
    """
    table = database.open(TABLE)
    stored = [] if table is None else table.schema.names  # earlier versions had no tokens
    columns = [name for name in COLUMNS if name in stored]
    ignored = 0
    for batch in database.stream(TABLE, equals("reranker", reranker), columns):
        rows = (
            frame(batch)
            .filter(pl.col("epoch") >= least_epoch)
            .select(
                name if name in stored else pl.lit(None, kind).alias(name)
                for name, kind in COLUMNS.items()
            )
        )
        finite = rows.filter(pl.col("score").is_finite())
        ignored += len(rows) - len(finite)
        yield finite
    if ignored:
        log.warning(
            "%d scores of reranker %s in table %r of %s are not finite numbers: they are ignored, "
            "and their pairs are scored again; `rescore maintain` removes them",
            ignored,
            reranker.hex()[:8],
            TABLE,
            database.uri,
        )


def newest(rows: pl.DataFrame) -> pl.DataFrame:
    """One row of each pair: of the newest epoch the first."""
    ordered = rows.sort("epoch", descending=True, maintain_order=True)
    return ordered.unique(KEY, keep="first", maintain_order=True)


def texts_by_hash(
    doc_ids: Sequence[str], hashes: Sequence[bytes], texts: dict[str, str]
) -> list[str | None]:
    """The text of each document, None where it is gone or no longer has the hash."""
    current = (texts.get(i) for i in doc_ids)
    pairs = zip(current, hashes, strict=True)
    return [t if t is not None and text_hash(t) == h else None for t, h in pairs]
