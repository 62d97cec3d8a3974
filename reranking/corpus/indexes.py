"""The indexes of a managed documents table: present, as configured, and without unindexed rows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from lancedb import index as lance_index

from configs.documents import Documents, VectorIndex
from reranking.corpus.fields import is_index_of
from reranking.errors import InputError, MissingResource, RuntimeFailure
from reranking.store import Database

_TYPES = {
    "IVF_FLAT": "IvfFlat",
    "IVF_SQ": "IvfSq",
    "IVF_PQ": "IvfPq",
    "IVF_RQ": "IvfRq",
    "IVF_HNSW_FLAT": "HnswFlat",
    "IVF_HNSW_SQ": "HnswSq",
    "IVF_HNSW_PQ": "HnswPq",
}


AUTO_ROWS = 500_000  # from which on `auto` builds an index, see docs/scale.md
_PQ_ROWS = 256  # fewer give LanceDB no codebook: it then makes an index without rows


def bring_indexes_up_to_date(
    database: Database, documents: Documents, *, column: str = "vector", metric: str = "cosine"
) -> None:
    """Create missing or differently set indexes and fold in rows that are not indexed yet.

    `column` is the vector column that is to have the configured vector index, by `metric`.
    """
    name = documents.table
    fts = documents.fts_index.model_dump()
    if fts_details(database.need(name), "text") != _wanted_fts(fts):
        create_fts(database, documents)
    bring_vector_index_up_to_date(database, name, column, documents.vector_index, metric)


def bring_vector_index_up_to_date(
    database: Database, name: str, column: str, wanted: VectorIndex | None, metric: str = "cosine"
) -> None:
    """Create a missing or differently set vector index, and fold rows into all of the indexes."""
    wanted = _chosen(database.need(name), wanted, column)
    if wanted is not None and not _has_vector_index(database.need(name), wanted, column, metric):
        database.create_index(name, column, _vector_config(wanted, metric))
    for _ in range(3):  # a racing ingest may have added rows meanwhile
        if not unindexed(database.need(name)):
            return
        database.optimize(name)
    left = unindexed(database.need(name))
    rows = database.need(name).count_rows()
    if rows < _PQ_ROWS and wanted is not None:
        raise InputError(
            f"table {name!r} has {rows} rows; {wanted.type} is trained on at least "
            f"{_PQ_ROWS}. Choose IVF_FLAT or IVF_HNSW_SQ, or no documents.vector_index"
        )
    raise RuntimeFailure(f"indexes of table {name!r} still lack rows after optimizing: {left}")


def _chosen(table: Any, wanted: VectorIndex | None, column: str) -> VectorIndex | None:
    """The index that `auto` stands for: none where exact search takes as long as an index would.

    IVF_SQ is built in a fiftieth of the time that HNSW takes, and finds .99 as LanceDB searches it.
    An index that is there stays: a table that shrinks a little is no reason to search otherwise.
    """
    if wanted is None or wanted.type != "auto":
        return wanted
    index = vector_index(table, column)
    if index is not None:
        kinds = {_plain(kind): kind for kind in _TYPES}
        return wanted.model_copy(update={"type": kinds.get(_plain(index["type"]), "IVF_SQ")})
    return None if table.count_rows() < AUTO_ROWS else wanted.model_copy(update={"type": "IVF_SQ"})


def unindexed(table: Any) -> dict[str, int]:
    """How many rows each index of the table does not cover, if any."""
    stats = {i.name: table.index_stats(i.name) for i in table.list_indices()}
    return {n: s.num_unindexed_rows for n, s in stats.items() if s and s.num_unindexed_rows}


def fts_details(table: Any, column: str) -> dict[str, Any] | None:
    """The settings of the column's FTS index, or None if it has no index."""
    for entry in table.list_indices():
        if entry.index_type == "FTS" and is_index_of(entry.columns, column):
            return {k: v for k, v in entry.index_details.items() if k in _FTS_KEYS}
    return None


def need_fts(table: Any, name: str, column: str) -> dict[str, Any]:
    """The settings of the column's FTS index; raises MissingResource that says what to run."""
    details = fts_details(table, column)
    if details is None:
        raise MissingResource(
            f"table {name!r} has no FTS index on column {column!r}, which fts and hybrid search "
            f"need. Its owner can make one: table.create_index({column!r}, config=FTS()). "
            "Or search with query_types: [vector]."
        )
    return details


def _milliseconds(time: datetime | None) -> datetime | None:
    """The time as it is stored: the process that made an index still knows its microseconds."""
    return time and time.replace(microsecond=time.microsecond // 1000 * 1000)


def vector_index(table: Any, column: str) -> dict[str, Any] | None:
    """Type, metric, build parameters and identity of the column's ANN index, or None."""
    for entry in table.list_indices():
        if is_index_of(entry.columns, column) and entry.index_type != "FTS":
            stats = table.index_stats(entry.name)
            if stats is not None and stats.num_indexed_rows:
                return {
                    "type": entry.index_type,
                    "metric": stats.distance_type,
                    # Compaction gives an index another uuid and the same neighbours.
                    "created": str(_milliseconds(entry.created_at) or entry.index_uuid),
                }
    return None


_FTS_KEYS = (
    "base_tokenizer",
    "language",
    "with_position",
    "max_token_length",
    "lower_case",
    "stem",
    "remove_stop_words",
    "custom_stop_words",
    "ascii_folding",
)


def create_fts(database: Database, documents: Documents) -> None:
    """Make the FTS index of a managed table, anew if there is one."""
    config = lance_index.FTS(**documents.fts_index.model_dump())
    database.create_index(documents.table, "text", config)


def _wanted_fts(settings: Mapping[str, Any]) -> dict[str, Any]:
    config = lance_index.FTS(**settings)
    return {key: getattr(config, key) for key in _FTS_KEYS}


def _has_vector_index(table: Any, wanted: VectorIndex, column: str, metric: str) -> bool:
    index = vector_index(table, column)
    return (
        index is not None
        and _plain(index["type"]) == _plain(wanted.type)
        and index["metric"] == metric
    )


def _plain(kind: str) -> str:
    """A type's name as configs and LanceDB's lists have it: `IVF_HNSW_SQ`, `IvfHnswSq`."""
    return kind.replace("_", "").lower()


def _vector_config(wanted: VectorIndex, metric: str) -> Any:
    options = wanted.model_dump(exclude={"type"}, exclude_none=True)
    return getattr(lance_index, _TYPES[wanted.type])(distance_type=metric, **options)
