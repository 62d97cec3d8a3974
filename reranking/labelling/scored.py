"""The scored pairs of a finished run, as labelling and mining read them; no model is loaded.

The pairs are the run's stored candidates, joined to the logits in the pair-score store by the
hashes of their texts. So a second reranker needs no run of its own over the same search: its scores
are found wherever it scored the same texts.
"""

from __future__ import annotations

import polars as pl
import pyarrow as pa

from reranking.arrow import frame
from reranking.corpus.queries import read_queries
from reranking.errors import InputError, MissingResource, RuntimeFailure
from reranking.labelling.judged import PAIR_COLUMNS
from reranking.runs.candidates import candidates_of
from reranking.runs.listing import list_rows
from reranking.runs.pairs import KEY, PairScores
from reranking.runs.run import Run, published_epoch
from reranking.store import Database


def reranker_named(database: Database, model_name: str) -> str:
    """The fingerprint of the reranker that the newest run with this model name recorded."""
    names = []
    for row in list_rows(database):
        names.append(str(row["reranker_model"]))
        if row["reranker"] is not None and row["reranker_model"] == model_name:
            return str(row["reranker"])
    known = ", ".join(sorted(set(names))) or "none"
    raise MissingResource(
        f"no run in {database.uri} has the reranker {model_name!r} (there are: {known}); start one"
    )


class ScoredRun:
    """A finished run's candidates with their logits, chunk by chunk.

    Holds the scores of the run's pairs (about 50 bytes each) and reads all else when it is asked.
    `other` is the fingerprint of a second reranker, whose logits come as `other_score`, null where
    it has not scored a pair.
    """

    def __init__(self, run: Run, other: str | None = None) -> None:
        database = run.database
        epoch = published_epoch(database, run.run_id)
        if run.reranker is None:
            raise InputError(f"run {run.run_id[:8]} has no reranker: there are no scores to label")
        if epoch is None or epoch < run.epoch:
            raise MissingResource(
                f"run {run.run_id[:8]} is not finished: start `rescore run` again to finish it"
            )
        self.run, self.epoch, self.reranker, self.other = run, epoch, run.reranker, other
        self.queries = read_queries(database, run.queries)
        hashes = self.queries.column("text_hash").to_pylist()
        self._scores = PairScores(
            database, bytes.fromhex(run.reranker), hashes, run.least_epoch
        ).known.select(*KEY, "score")
        self._other: pl.DataFrame | None = None
        if other is not None:
            known = PairScores(database, bytes.fromhex(other), hashes).known
            self._other = known.select(*KEY, pl.col("score").alias("other_score"))

    def chunk(self, number: int) -> pa.Table:
        """One chunk's pairs in (query_id, doc_id) order: PAIR_COLUMNS, and `other_score`."""
        rows = frame(candidates_of(self.run, number))
        pairs = rows.join(self._scores, on=KEY, how="left")
        lacking = pairs["score"].null_count()
        if lacking:
            raise RuntimeFailure(
                f"{lacking} pairs of chunk {number} have no score in {self.run.database.uri}: "
                "start `rescore run --force` to score them again"
            )
        columns = list(PAIR_COLUMNS)
        if self._other is not None:
            pairs = pairs.join(self._other, on=KEY, how="left")
            columns.append("other_score")
        # one order whatever the storage's: sums in a fit must not differ from call to call
        return pairs.sort("query_id", "doc_id").select(columns).to_arrow()

    def pairs(self) -> pa.Table:
        """The pairs of all chunks."""
        return pa.concat_tables([self.chunk(number) for number in self.run.chunks])

    def judged_pairs(self, judgments: pa.Table) -> pa.Table:
        """The pairs that somebody judged, found chunk by chunk: all that a calibration needs."""
        known = frame(judgments).select("query_id", "doc_id").unique()
        parts = [
            frame(self.chunk(number)).join(known, on=["query_id", "doc_id"], how="semi")
            for number in self.run.chunks
        ]
        return pl.concat(parts).to_arrow()

    def check_other(self, pairs: pa.Table) -> None:
        """Raise InputError where the second reranker has scored none of the pairs."""
        if "other_score" in pairs.column_names and pairs.num_rows:
            if pairs.column("other_score").null_count == pairs.num_rows:
                raise InputError(
                    f"the second reranker has scored none of the {pairs.num_rows} pairs of run "
                    f"{self.run.run_id[:8]}: start a run with it over the same queries first"
                )
