"""Why a document is not among a query's candidates: the one question that needs a search."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from configs.part import LEGS
from reranking.arrow import frame
from reranking.corpus.corpus import columns_of, string_ids
from reranking.corpus.filters import where_condition
from reranking.errors import ConfigError
from reranking.evaluation.placements import QueryPlacements
from reranking.runs.run import Run
from reranking.runs.search import check_vectors, query_vectors, search_chunk
from reranking.scoring.encoder import SentenceEncoder

DEPTH = 1000  # ranks that are looked at per leg, at least


def why_absent(query: QueryPlacements, doc_id: str) -> str:
    """Say why the run has no such candidate; searches again at the run's version of the documents.

    The answer says that it searched again, and how deep.
    """
    run = query.run
    where = f"version {run.corpus.version} of table {run.corpus.table!r}"
    stored = columns_of(run.database, run.corpus, [doc_id], [])
    if not any(batch.num_rows for batch in stored):
        return f"not among the candidates: there is no such document in {where}"
    if run.config is not None and run.config.candidates is not None:
        return "not among the candidates: the given ranking lacks it within the limit"
    if run.search.where and not _passes(run, doc_id):
        return f"not among the candidates: search.where {dict(run.search.where)} leaves it out"
    deep = max(DEPTH, 4 * run.search.limit)
    ranks = _search_again(query, doc_id, deep)
    parts = [_in_words(run, leg, ranks[leg], deep) for leg in LEGS[query.query_type]]
    again = f"searched again at {where}"
    return f"not among the candidates: {', '.join(parts)} ({again})"


def _in_words(run: Run, leg: str, rank: int | None, deep: int) -> str:
    if rank is None:
        return f"the {leg} leg does not find it among its first {deep:,}"
    if rank <= run.search.limit:  # only if the table or an approximate index answers otherwise
        return f"the {leg} leg now finds it at rank {rank}"
    return f"the limit of {run.search.limit} cut it at rank {rank} of the {leg} leg"


def _search_again(query: QueryPlacements, doc_id: str, deep: int) -> dict[str, int | None]:
    """Search the one query `deep` ranks deep by the run's own settings: the document's ranks."""
    run = query.run
    rows = run.query_rows.filter(pc.equal(run.query_rows["query_id"], query.query_id))
    # only the legs of this query type: the other one may need a model that is not there
    search = run.search.model_copy(update={"limit": deep, "query_types": (query.query_type,)})
    vectors = None
    if "vector" in search.legs:
        width = check_vectors(run.database, run.corpus)
        vectors = query_vectors(rows, _encoder(run, rows), width)
    hits: pa.Table = search_chunk(run.database, run.corpus, rows, vectors, search)
    hit = frame(hits).filter(pl.col("doc_id") == doc_id).to_dicts()
    return {leg: hit[0][f"{leg}_rank"] if hit else None for leg in ("vector", "fts")}


def _encoder(run: Run, rows: pa.Table) -> SentenceEncoder | None:
    """Find the encoder that the run used, None where the query brings its vector."""
    if rows["vector"][0].as_py() is not None:
        return None
    given = None if run.config is None else run.config.documents.encoder
    encoder = None if given is None else SentenceEncoder(given)
    used = run.stored["encoder"]
    if encoder is None or encoder.fingerprint != used:
        now = "none" if encoder is None else encoder.fingerprint[:8]
        raise ConfigError(
            f"run {run.run_id[:8]} searched with encoder {(used or 'none')[:8]}, its config names "
            f"{now} today: the search cannot be repeated. Put the model back that the run used"
        )
    return encoder


def _passes(run: Run, doc_id: str) -> bool:
    """Whether the run's filter lets the document through."""
    table = run.corpus.opened(run.database)
    condition = where_condition(run.search.where, table.schema)
    ids: Iterable[str] = string_ids(
        table.search().where(condition).select([run.corpus.id]).to_arrow()[run.corpus.id],
        run.corpus,
    )
    return doc_id in set(ids)
