"""Score what is not scored yet: a chunk's pairs through the cross-encoder into the pair store."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from reranking.corpus.corpus import texts_of
from reranking.errors import RuntimeFailure
from reranking.progress import Progress, Status, silent, weights_of
from reranking.runs.candidates import candidates_of
from reranking.runs.pairs import Commits, distinct_pairs, texts_by_hash
from reranking.runs.plan import note_commit
from reranking.runs.run import Run
from reranking.runs.run_scores import RunScores
from reranking.scoring.scorer import Scorer

log = logging.getLogger(__name__)

_NOTED = 120.0  # seconds between two marks of a run at work
_PROBES = 8  # stored pairs scored again when a model is loaded
# A server may batch otherwise every time, in a precision of its own.
_TOLERANCE = {"float32": 1e-4, "float16": 0.05, "bfloat16": 0.4, "served": 0.05}
_OTHERS = (
    "a library or the device changed the model's numbers. `rescore show` names the versions of "
    "earlier runs; install those, or"
)
_CHANGED = {
    "served": "the server has another model under the same name. Set rerank.api.version to tell "
    "the two apart, or"
}


@dataclass
class ChunkCounts:
    """Pairs of a chunk: all distinct ones, and those that had to be scored."""

    pairs: int = 0
    scored: int = 0


class Rescorer:
    """Scores the chunks of one run; the model is loaded when the first pair needs it, once."""

    def __init__(
        self,
        run: Run,
        load: Callable[[], Scorer],
        *,
        reranker: str | None = None,
        commit_seconds: float = 30.0,
        progress: Progress = silent,
    ) -> None:
        reranker = reranker or run.reranker  # a fingerprint; another one than the run's refines
        if reranker is None:
            raise ValueError("the run has no reranker")
        self.run, self._load = run, load
        self.commit_seconds, self.progress = commit_seconds, progress
        self.store = RunScores(run, bytes.fromhex(reranker))
        self.doubtful = False  # others may have scored what is not known to have a score
        self.scorer: Scorer | None = None
        self.seconds = 0.0  # in the scorer, load time aside
        self._noted = -math.inf

    def score_chunk(self, chunk: int) -> ChunkCounts:
        """Score the chunk's missing pairs."""
        pairs = distinct_pairs(candidates_of(self.run, chunk))
        return ChunkCounts(pairs=len(pairs), scored=self.score_pairs(chunk, pairs))

    def score_pairs(self, chunk: int, pairs: pl.DataFrame) -> int:
        """Score those of the chunk's `pairs` that are missing; how many they were.

        Committed every `commit_seconds`, and whatever ends it early, what was scored until then.
        """
        just_now = self.store.cover(chunk)
        missing = self.store.missing(pairs)
        if len(missing) and self.doubtful and not just_now:
            self.store.forget_window()
            self.store.cover(chunk)
            missing = self.store.missing(pairs)
        if len(missing):
            scorer = self._ready(chunk, pairs)
            self._score(scorer, chunk, missing)
        return len(missing)

    def _ready(self, chunk: int, pairs: pl.DataFrame) -> Scorer:
        if self.scorer is None:
            self.scorer = self._load()
            self._check_against_stored(self.scorer, chunk, pairs)
        return self.scorer

    def _score(self, scorer: Scorer, chunk: int, missing: pl.DataFrame) -> None:
        batch = self._texts(chunk, missing)
        commits = Commits(self.store, missing, self.run.epoch, self.commit_seconds, self._committed)
        queries, documents, query_index, document_index = batch
        weights = weights_of(queries)[query_index] + weights_of(documents)[document_index]
        weights /= weights.sum()
        done, share = 0, 0.0
        self.progress(Status("score", done, len(missing), share))
        started = time.monotonic()
        try:
            for scored in scorer.batches(*batch):
                commits.add(*scored)
                positions = scored[0]  # a scorer of the user's may leave out the tokens
                done += len(positions)
                share += float(weights[positions].sum())
                self.progress(Status("score", done, len(missing), share))
        finally:
            self.seconds += time.monotonic() - started
            commits.flush()

    def _committed(self) -> None:
        """Say now and then that this run commits: each mark makes a version of `runs`."""
        if time.monotonic() - self._noted >= _NOTED:
            note_commit(self.run)
            self._noted = time.monotonic()

    def _texts(
        self, chunk: int, pairs: pl.DataFrame
    ) -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
        """Distinct query texts, distinct document texts, and each pair's places in them."""
        queries = self.run.chunk_of_queries(chunk)
        by_hash = dict(
            zip(queries["text_hash"].to_pylist(), queries["text"].to_pylist(), strict=True)
        )
        documents = pairs.unique("doc_hash", keep="first", maintain_order=True)
        ids, hashes = documents["doc_id"].to_list(), documents["doc_hash"].to_list()
        texts = texts_by_hash(ids, hashes, texts_of(self.run.database, self.run.corpus, ids))
        good = [t for t in texts if t is not None]
        if len(good) < len(texts):
            gone = ids[texts.index(None)]
            raise RuntimeFailure(
                f"document {gone!r} is not in version {self.run.corpus.version} of table "
                f"{self.run.corpus.table!r} with the text that was searched. Start the command "
                "again: a changed corpus makes a new run."
            )
        query_at = {h: i for i, h in enumerate(by_hash)}
        doc_at = {h: i for i, h in enumerate(hashes)}
        q = np.array([query_at[h] for h in pairs["query_hash"].to_list()], np.int64)
        d = np.array([doc_at[h] for h in pairs["doc_hash"].to_list()], np.int64)
        return list(by_hash.values()), good, q, d

    def _check_against_stored(self, scorer: Scorer, chunk: int, pairs: pl.DataFrame) -> None:
        """Score a few stored pairs again: a library that changed its numbers must not go unseen."""
        probes = self.store.of(pairs).head(_PROBES)
        if not len(probes):
            return
        again = scorer.score(*self._texts(chunk, probes))
        gap = float(np.abs(again - probes["score"].to_numpy()).max())
        if not gap <= _TOLERANCE[scorer.dtype]:  # NaN is no small gap
            raise RuntimeFailure(
                f"{len(probes)} stored pairs scored again differ by up to {gap:.2g}, more than "
                f"{_TOLERANCE[scorer.dtype]:.0e}: {_CHANGED.get(scorer.dtype, _OTHERS)} run with "
                "--force to score everything again."
            )
        log.info("%d stored pairs scored again: largest gap %.1e", len(probes), gap)
