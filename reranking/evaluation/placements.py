"""Where a run put each candidate of one query: in each leg, in the first stage, in the ranking."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl
import pyarrow as pa

from reranking.arrow import frame
from reranking.errors import InputError, MissingResource
from reranking.runs.candidates import candidates_of
from reranking.runs.pairs import KEY, PairScores, distinct_pairs
from reranking.runs.ranking import cut_of, rank_results, rows_of
from reranking.runs.refine import with_exact
from reranking.runs.run import Run
from reranking.store import equals


@dataclass(frozen=True)
class Placement:
    """Where one run has one document for one query; None where a stage does not have it.

    `first_rank` and `full_rank` are ranks before any cut, `rank` is the published one. `logit` is
    the reranker's raw score, `score` the published `_relevance_score`.
    """

    doc_id: str
    doc_hash: bytes
    vector_rank: int | None
    distance: float | None
    fts_rank: int | None
    bm25: float | None
    first_rank: int
    logit: float | None
    full_rank: int
    rank: int | None
    score: float | None


@dataclass(frozen=True)
class QueryPlacements:
    """One query of a run in one query type: its text, and where each candidate is."""

    run: Run
    query_id: str
    query_type: str
    text: str
    documents: Mapping[str, Placement]

    @property
    def cut(self) -> int:
        """How many ranks the run's ranking keeps."""
        return cut_of(self.run.search.limit, self.run.top_k)


def placements(run: Run, query_id: str, query_type: str) -> QueryPlacements:
    """Return where the run's candidates of the query are; read from stored tables only.

    Raises InputError for a query that the run did not ask and a query type that it does not have.
    """
    if query_type not in run.search.query_types:
        raise InputError(
            f"run {run.run_id[:8]} has no query type {query_type!r}; it has "
            f"{', '.join(run.search.query_types)}"
        )
    ids = run.query_rows.column("query_id").to_pylist()
    if query_id not in ids:
        some = ", ".join(ids[:5])
        raise MissingResource(
            f"run {run.run_id[:8]} has no query {query_id!r} among its {len(ids):,} of query set "
            f"{run.queries.name!r} (the first are {some}): give one of those ids"
        )
    place = ids.index(query_id)
    candidates = frame(candidates_of(run, place // run.search.chunk_queries))
    rows = rows_of(candidates.filter(pl.col("query_id") == query_id), query_type)
    [row] = run.query_rows.slice(place, 1).to_pylist()
    return QueryPlacements(run, query_id, query_type, row["text"], _placed(run, rows, query_type))


def _placed(run: Run, rows: pl.DataFrame, query_type: str) -> dict[str, Placement]:
    candidates = rows.to_arrow()
    if not candidates.num_rows:
        return {}
    first = _ranks(run, candidates, None, query_type)
    scores = None if run.reranker is None else _scores(run, candidates)
    full = first if scores is None else _ranks(run, candidates, scores.to_arrow(), query_type)
    logits = {} if scores is None else _logits(scores)
    published = _published(run, rows["query_id"][0], query_type)
    return {
        r["doc_id"]: Placement(
            doc_id=r["doc_id"],
            doc_hash=r["doc_hash"],
            vector_rank=r["vector_rank"],
            distance=r["_distance"],
            fts_rank=r["fts_rank"],
            bm25=r["_score"],
            first_rank=first[r["doc_id"]],
            logit=logits.get((r["query_hash"], r["doc_hash"])),
            full_rank=full[r["doc_id"]],
            rank=published.get(r["doc_id"], (None, None))[0],
            score=published.get(r["doc_id"], (None, None))[1],
        )
        for r in rows.sort("doc_id").to_dicts()
    }


def _ranks(
    run: Run, candidates: pa.Table, scores: pa.Table | None, query_type: str
) -> dict[str, int]:
    """Rank all candidates, none cut off: {document: rank}."""
    ranked = rank_results(
        candidates,
        scores,
        query_types=[query_type],
        limit=candidates.num_rows,
        fusion=run.search.fusion,
        blend=run.blend,
    ).to_pydict()
    return dict(zip(ranked["doc_id"], ranked["rank"], strict=True))


def _scores(run: Run, candidates: pa.Table) -> pl.DataFrame:
    pairs = distinct_pairs(candidates).select(KEY)
    hashes = pairs["query_hash"].to_list()

    def store(reranker: str) -> PairScores:
        return PairScores(run.database, bytes.fromhex(reranker), hashes, run.least_epoch)

    assert run.reranker is not None
    known = store(run.reranker).of(pairs)
    return known if run.refiner is None else with_exact(known, store(run.refiner))


def _logits(scores: pl.DataFrame) -> dict[tuple[bytes, bytes], float]:
    """Give the logit that ranks: the exact one where there is one."""
    best = pl.coalesce("exact", "score") if "exact" in scores.columns else pl.col("score")
    return {(q, d): s for q, d, s in scores.select(*KEY, best.alias("best")).iter_rows()}


def _published(run: Run, query_id: str, query_type: str) -> dict[str, tuple[int, float]]:
    """Read the published ranks and scores of one query; empty for a run that is not finished."""
    columns = ["doc_id", "rank", "_relevance_score"]
    where = equals("query_id", query_id) & equals("query_type", query_type)
    rows = run.database.read(run.results_table, where, columns).to_pylist()
    return {r["doc_id"]: (r["rank"], r["_relevance_score"]) for r in rows}
