"""The drop-in: a LanceDB reranker on the batch engine, for `table.search(...).rerank(...)`.

Same arguments and columns as `lancedb.rerankers.CrossEncoderReranker`, same scores; and with
`database` the same stored scores as the offline runs, so that online search and the nightly run
agree and a pair that either has scored is not scored again.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from lancedb.rerankers import Reranker
from numpy.typing import NDArray
from pydantic import ValidationError

from configs.blending import Blend
from configs.schema import Rerank
from configs.served import RerankApi
from reranking.arrow import frame
from reranking.errors import ConfigError, RuntimeFailure
from reranking.fingerprints import text_hash, text_hashes
from reranking.runs.fusion import Legs, blended
from reranking.runs.pairs import Commits, PairScores
from reranking.runs.ranking import activated
from reranking.scoring.crossencoder import find_reranker
from reranking.store import Database

if TYPE_CHECKING:
    from reranking.scoring.scorer import Scorer

_COMMIT_SECONDS = 30.0


class CrossEncoderReranker(Reranker):  # type: ignore[misc]  # LanceDB's classes have no types
    """A cross-encoder for vector, FTS and hybrid queries; `return_score` "all" for all three.

    Pairs are batched by tokens, so `batch_size` is accepted and not needed. `database` is the URI
    of a rescore database whose pair scores are used and added to. `blend` is `rerank.blend` of a
    config: what it weighs is read from the legs' columns, distances being cosine distances. In
    hybrid search LanceDB rescales both columns before a reranker sees them, so there it must have
    scale min-max or the method ranks. `api` is `rerank.api` of a config: a server scores, and
    query and texts are sent there.
    """

    def __init__(
        self,
        model_name: str = "cross-encoder/ms-marco-TinyBERT-L-6",
        column: str = "text",
        device: str | None = None,
        return_score: str = "relevance",
        trust_remote_code: bool = False,
        batch_size: int | None = None,
        *,
        database: str | None = None,
        revision: str | None = None,
        max_length: int | None = None,
        activation: str | None = None,
        precision: str = "auto",
        prompt: str | None = None,
        prompt_name: str | None = None,
        label: int | str | None = None,
        answer_tokens: Mapping[str, str] | None = None,
        blend: Blend | Mapping[str, Any] | None = None,
        api: RerankApi | Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(return_score)
        self.column = column
        self.database = None if database is None else Database(database)
        settings = _settings(
            model_name=model_name,
            revision=revision,
            device=device,
            max_length=max_length,
            activation=activation,
            precision=precision,
            prompt=prompt,
            prompt_name=prompt_name,
            label=label,
            answer_tokens=answer_tokens,
            trust_remote_code=trust_remote_code,
            blend=blend,
            api=api,
        )
        self.blend = settings.blend
        self.model = find_reranker(settings)

    def __str__(self) -> str:
        return f"CrossEncoderReranker(model_name={self.model.name})"

    @cached_property
    def scorer(self) -> Scorer:
        """The loaded model; loaded when the first pair needs it."""
        return self.model.load()

    def rerank_vector(self, query: Any, vector_results: pa.Table) -> pa.Table:
        """The vector leg's rows by score; without `_distance` unless all scores are returned."""
        legs = None if self.blend is None else _legs(vector_results, vector_results, None)
        return self._reranked(query, vector_results, legs, drop=["_distance"])

    def rerank_fts(self, query: Any, fts_results: pa.Table) -> pa.Table:
        """The FTS leg's rows by score; without `_score` unless all scores are returned."""
        legs = None if self.blend is None else _legs(fts_results, None, fts_results)
        return self._reranked(query, fts_results, legs, drop=["_score"])

    def rerank_hybrid(
        self, query: Any, vector_results: pa.Table, fts_results: pa.Table
    ) -> pa.Table:
        """Both legs' rows, each once, by score; null where a leg did not find a row."""
        union, legs = _union(vector_results, fts_results), None
        if self.blend is not None:
            _need_known_scale(self.blend)
            legs = _legs(union, vector_results, fts_results)
        return self._reranked(query, union, legs, drop=["_distance", "_score"])

    def _reranked(self, query: Any, rows: pa.Table, legs: Legs | None, drop: list[str]) -> pa.Table:
        if self.column not in rows.column_names:
            raise ConfigError(
                f"column {self.column!r} is not among the results' columns {rows.column_names}; "
                "select it, or name another with `column`"
            )
        texts = ["" if t is None else t for t in rows[self.column].to_pylist()]
        logits = self._logits(_text_of(query), texts)
        if legs is None or self.blend is None:
            order = logits
            scores = activated(pl.Series(logits, dtype=pl.Float32), self.model.activation)
        else:
            order = blended(logits.astype(np.float64)[None], legs, self.blend)[0]
            scores = pl.Series(order, dtype=pl.Float32)
        scored = rows.append_column("_relevance_score", scores.to_arrow())
        if self.score == "relevance":
            scored = scored.drop_columns([n for n in drop if n in scored.column_names])
        return scored.take(pa.array(np.argsort(-order, kind="stable")))

    def _logits(self, query: str, texts: list[str]) -> NDArray[np.float32]:
        """One raw logit per text; each distinct text is scored, or looked up, once."""
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return np.zeros(0, np.float32)
        if self.database is None:
            scores = self._score(query, distinct)
        else:
            scores = self._stored_or_scored(self.database, query, distinct)
        at = {text: i for i, text in enumerate(distinct)}
        return scores[[at[text] for text in texts]]

    def _score(self, query: str, texts: list[str]) -> NDArray[np.float32]:
        count = len(texts)
        logits = self.scorer.score([query], texts, np.zeros(count, np.int64), np.arange(count))
        if not np.isfinite(logits).all():
            wrong = int(count - np.isfinite(logits).sum())
            raise RuntimeFailure(
                f"{self} gave {wrong} of {count} texts a score that is not a finite number: try "
                "precision='float32', or look at the model's weights"
            )
        return logits

    def _stored_or_scored(
        self, database: Database, query: str, texts: list[str]
    ) -> NDArray[np.float32]:
        asked = text_hash(query)
        store = PairScores(database, self.model.fingerprint, [asked])
        hashes = text_hashes(pa.array(texts, pa.string())).to_pylist()
        pairs = pl.DataFrame(
            {
                "query_hash": pl.Series([asked] * len(texts), dtype=pl.Binary),
                "doc_hash": pl.Series(hashes, dtype=pl.Binary),
            }
        )
        missing = set(store.missing(pairs)["doc_hash"].to_list())
        new = [i for i, h in enumerate(hashes) if h in missing]
        if new:
            index = np.arange(len(new))
            commits = Commits(store, pairs[new], epoch=0, seconds=_COMMIT_SECONDS)
            try:
                for batch in self.scorer.batches(
                    [query], [texts[i] for i in new], np.zeros(len(new), np.int64), index
                ):
                    commits.add(*batch)
            finally:  # what was scored until a fault is kept
                commits.flush()
        known = store.of(pairs)
        by_hash = dict(zip(known["doc_hash"].to_list(), known["score"].to_list(), strict=True))
        return np.array([by_hash[h] for h in hashes], np.float32)


def _settings(**arguments: Any) -> Rerank:
    """The arguments as the config's own class; raises ConfigError that names each bad one."""
    try:
        return Rerank(**arguments)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg']}".removeprefix(": ") for e in error.errors()
        )
        raise ConfigError(f"CrossEncoderReranker: {faults}") from None


def _text_of(query: Any) -> str:
    """The query's text, also where LanceDB hands over a query object instead."""
    return query if isinstance(query, str) else str(query.query)


def _union(vector: pa.Table, fts: pa.Table) -> pa.Table:
    """The legs' rows, each once, with both legs' scores; types stay as they are."""
    rows = pa.concat_tables([vector, fts], promote_options="default")
    for name in ("_distance", "_score"):
        if name not in rows.column_names:
            rows = rows.append_column(name, pa.nulls(rows.num_rows, pa.float32()))
    if "_rowid" not in rows.column_names:  # both legs are empty
        return rows
    first = frame(rows.select(["_rowid"])).with_row_index().unique("_rowid", keep="first")
    rows = rows.take(pa.array(first["index"].sort().to_numpy()))
    for name, leg in (("_distance", vector), ("_score", fts)):
        if name in leg.column_names and "_rowid" in leg.column_names:
            places = pc.index_in(rows["_rowid"], value_set=leg["_rowid"].combine_chunks())
            values = leg[name].combine_chunks().take(places)
            rows = rows.set_column(rows.column_names.index(name), name, values)
    return rows


def _need_known_scale(blend: Blend) -> None:
    if blend.method == "scores" and blend.scale == "raw":
        raise ConfigError(
            "a blend of raw scores cannot be had in LanceDB's hybrid search, which rescales both "
            "legs' scores before a reranker sees them: give it scale 'min-max' or method 'ranks', "
            "search by vector or by text alone, or leave it to `rescore run`, which has the scores"
        )


def _legs(rows: pa.Table, vector: pa.Table | None, fts: pa.Table | None) -> Legs:
    """What each leg gave the rows, as one query: a leg's results come best first."""
    columns = []
    for leg, name in ((vector, "_distance"), (fts, "_score")):
        found = leg is not None and leg.num_rows and name in rows.column_names
        ranks = _places(rows, leg) + 1.0 if found else np.full(rows.num_rows, np.nan)
        values = rows[name].to_numpy() if found else np.full(rows.num_rows, np.nan)
        columns += [ranks[None], np.asarray(values, np.float64)[None]]
    return Legs(*columns)


def _places(rows: pa.Table, leg: pa.Table) -> NDArray[np.float64]:
    """Where each row stands in the leg's results, NaN where it does not."""
    if rows is leg:
        return np.arange(rows.num_rows, dtype=np.float64)
    places = pc.index_in(rows["_rowid"], value_set=leg["_rowid"].combine_chunks())
    return np.asarray(pc.cast(places, pa.float64()).to_numpy(), np.float64)
