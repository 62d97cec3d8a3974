"""One question asked now, by the settings of a config or of a stored run; nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
from pydantic import ValidationError

from configs.blending import Blend
from configs.part import LEGS, QueryType
from configs.schema import Search
from reranking.arrow import frame
from reranking.corpus.corpus import Corpus, check_filter, texts_of
from reranking.errors import ConfigError, InputError
from reranking.fingerprints import text_hash
from reranking.notebook import html_table
from reranking.pipeline import Pipeline
from reranking.runs.pairs import KEY, PairScores, distinct_pairs
from reranking.runs.ranking import rank_results
from reranking.runs.run import Run
from reranking.runs.search import check_vectors, query_vectors, search_chunk
from reranking.schemas import QUERIES

TOP: Final = 10
EXCERPT: Final = 120  # characters of a text
COLUMNS: Final = (
    *("rank", "doc_id", "score", "logit", "first stage"),
    *("vector", "_distance", "fts", "_score", "excerpt"),
)


@dataclass(frozen=True)
class Hit:
    """One document of the answer: its rank and scores, where each leg has it, its text's start.

    `logit` is None without a reranker; ranks and scores of a leg that lacks it are None.
    """

    rank: int
    doc_id: str
    score: float
    logit: float | None
    first_rank: int
    vector_rank: int | None
    distance: float | None
    fts_rank: int | None
    bm25: float | None
    excerpt: str


@dataclass(frozen=True)
class Asked:
    """A query's answer: `counts` is how many documents each leg gave, `pairs` their union.

    `reused` of them had a stored score; the others were scored now and not stored.
    """

    text: str
    query_type: str
    run_id: str | None
    where: Mapping[str, Any]
    counts: Mapping[str, int]
    pairs: int
    reused: int
    hits: tuple[Hit, ...]

    @property
    def title(self) -> str:
        """The query and what was looked through."""
        legs = ", ".join(f"{leg} {count}" for leg, count in self.counts.items())
        sentence = f"{self.query_type}: {self.text} (found by {legs}"
        if self.pairs:
            sentence += f"; {self.pairs} pairs, {self.reused} of them with a stored score"
        return sentence + ")"

    @property
    def rows(self) -> list[tuple[object, ...]]:
        """The documents as rows of a table with COLUMNS."""
        return [
            (h.rank, h.doc_id, h.score, h.logit, h.first_rank, h.vector_rank, h.distance)
            + (h.fts_rank, h.bm25, h.excerpt)
            for h in self.hits
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-like values."""
        return asdict(self)

    def _repr_html_(self) -> str:
        return html_table(self.title, COLUMNS, self.rows)


def ask(
    pipeline: Pipeline,
    text: str,
    *,
    run: Run | None = None,
    where: Mapping[str, Any] | None = None,
    query_type: QueryType | None = None,
    top: int = TOP,
) -> Asked:
    """Search and rerank one text as the config would today, or as `run` did.

    `pipeline` is that of the run's config if a run is given: its documents are then those at the
    run's version, its models those the run used. `where` is joined to the search's own filter.
    Raises ConfigError for a model that is not the run's any more, and for a filter that does not
    fit.
    """
    corpus = pipeline.corpus() if run is None else run.corpus
    search = pipeline.search_of(corpus) if run is None else run.search
    if run is not None:
        _need_same_models(pipeline, run)
    if pipeline.config.candidates is not None:
        raise ConfigError("the config takes a given ranking as its candidates: nothing is searched")
    search = _narrowed(search, where or {}, _type(search, query_type))
    check_filter(pipeline.database, corpus, search.where)
    asked = pa.Table.from_pylist(
        [{"query_set": "-", "query_id": "-", "text": text, "text_hash": text_hash(text)}], QUERIES
    )
    vectors = None
    if "vector" in search.legs:
        width = check_vectors(pipeline.database, corpus)
        if pipeline.encoder is None:
            raise ConfigError(
                "a text has no vector and the config names no documents.encoder: ask with "
                "--query-type fts, or name the encoder"
            )
        vectors = query_vectors(asked, pipeline.encoder, width)
    candidates = search_chunk(pipeline.database, corpus, asked, vectors, search)
    scores, reused = _scores(pipeline, corpus, text, candidates)
    rerank = pipeline.config.rerank
    blend = None if rerank is None else rerank.blend
    return Asked(
        text=text,
        query_type=search.query_types[0],
        run_id=None if run is None else run.run_id,
        where=dict(search.where),
        counts={leg: _count(candidates, leg) for leg in search.legs},
        pairs=0 if scores is None else len(scores),
        reused=reused,
        hits=_hits(pipeline, corpus, search, candidates, scores, blend, top),
    )


def _type(search: Search, asked: QueryType | None) -> QueryType:
    """The query type that is answered: as asked, else hybrid, else the first."""
    types = search.query_types
    if asked is not None and not set(LEGS[asked]) <= set(search.legs):
        raise InputError(
            f"query type {asked!r} needs the legs {', '.join(LEGS[asked])}; the search has "
            f"{', '.join(search.legs)}"
        )
    return asked or ("hybrid" if "hybrid" in types else types[0])


def _narrowed(search: Search, where: Mapping[str, Any], query_type: QueryType) -> Search:
    """The search of one query type with another filter, checked as a config's is."""
    fusion = search.fusion if query_type == "hybrid" else None
    values = search.model_dump() | {"query_types": (query_type,), "fusion": fusion}
    try:
        return Search.model_validate(values | {"where": {**search.where, **where}})
    except ValidationError as error:
        faults = "; ".join(str(e["msg"]).removeprefix("Value error, ") for e in error.errors())
        raise ConfigError(f"--where: {faults}") from None


def _need_same_models(pipeline: Pipeline, run: Run) -> None:
    encoder, reranker = pipeline.encoder, pipeline.reranker
    now = {
        "encoder": None if encoder is None else encoder.fingerprint,
        "reranker": None if reranker is None else reranker.fingerprint.hex(),
    }
    for kind, before in (("encoder", run.stored["encoder"]), ("reranker", run.reranker)):
        if now[kind] != before:
            raise ConfigError(
                f"run {run.run_id[:8]} used {kind} {(before or 'none')[:8]}, its config names "
                f"{(now[kind] or 'none')[:8]} today: put the model back, or ask without --run"
            )


def _scores(
    pipeline: Pipeline, corpus: Corpus, text: str, candidates: pa.Table
) -> tuple[pl.DataFrame | None, int]:
    """The pairs with their logits, stored ones where they are known, and how many those are."""
    model = pipeline.reranker
    if model is None:
        return None, 0
    pairs = distinct_pairs(candidates)
    store = PairScores(pipeline.database, model.fingerprint, [text_hash(text)])
    known, missing = store.of(pairs), store.missing(pairs)
    if not len(missing):
        return known, len(known)
    ids = missing["doc_id"].to_list()
    texts = texts_of(pipeline.database, corpus, ids)
    count = len(ids)
    logits = model.load().score(
        [text], [texts.get(i, "") for i in ids], np.zeros(count, np.int64), np.arange(count)
    )
    scored = missing.with_columns(score=pl.Series(logits, dtype=pl.Float32))
    return pl.concat([known, scored.select(known.columns)]), len(known)


def _hits(
    pipeline: Pipeline,
    corpus: Corpus,
    search: Search,
    candidates: pa.Table,
    scores: pl.DataFrame | None,
    blend: Blend | None,
    top: int,
) -> tuple[Hit, ...]:
    limit, model = max(candidates.num_rows, 1), pipeline.reranker

    def ranked(known: pa.Table | None) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = rank_results(
            candidates,
            known,
            query_types=search.query_types,
            limit=limit,
            activation="identity" if model is None else model.activation,
            fusion=search.fusion,
            blend=blend,
        ).to_pylist()
        return rows

    first = {r["doc_id"]: r["rank"] for r in ranked(None)}
    final = ranked(None if scores is None else scores.select(*KEY, "score").to_arrow())[:top]
    rows = frame(candidates)
    logits = {}
    if scores is not None:
        both = rows.join(scores.select(*KEY, "score"), on=KEY)
        logits = dict(both.select("doc_id", "score").iter_rows())
    legs = {r["doc_id"]: r for r in rows.to_dicts()}
    texts = texts_of(pipeline.database, corpus, [r["doc_id"] for r in final])
    return tuple(
        Hit(
            rank=r["rank"],
            doc_id=r["doc_id"],
            score=r["_relevance_score"],
            logit=logits.get(r["doc_id"]),
            first_rank=first[r["doc_id"]],
            vector_rank=legs[r["doc_id"]]["vector_rank"],
            distance=legs[r["doc_id"]]["_distance"],
            fts_rank=legs[r["doc_id"]]["fts_rank"],
            bm25=legs[r["doc_id"]]["_score"],
            excerpt=_excerpt(texts.get(r["doc_id"], "")),
        )
        for r in final
    )


def _count(candidates: pa.Table, leg: str) -> int:
    ranks = candidates[f"{leg}_rank"]
    return int(len(ranks) - ranks.null_count)


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT else line[: EXCERPT - 3].rstrip() + "..."
