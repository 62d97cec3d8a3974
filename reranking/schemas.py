"""The domain in a handful of names, and every table's Arrow schema.

Ids are strings, hashes are 16 bytes, times are UTC. A column that is not null is declared so, and
`conform` checks it before anything is written. Key columns of tables that are merged into carry
Lance's primary-key marks: without them racing merges insert the same key twice.
"""

from __future__ import annotations

from typing import Final, Literal

import pyarrow as pa
import pyarrow.compute as pc

from reranking.errors import InputError

QueryType = Literal["vector", "fts", "hybrid"]
ReturnScore = Literal["relevance", "all"]
Stage = Literal["first", "reranked"]

QUERY_TYPES: Final[tuple[QueryType, ...]] = ("vector", "fts", "hybrid")

SCHEMA_VERSION: Final = 1  # of all tables; `maintain` upgrades an older database
VERSION_KEY: Final = b"rescore.schema_version"

HASH = pa.binary(16)
TIME = pa.timestamp("us", tz="UTC")


def _nn(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


def _key(position: int, name: str, kind: pa.DataType) -> pa.Field:
    """A not-null key column with the marks that make racing merges retry instead of duplicate."""
    marks = {
        b"lance-schema:unenforced-primary-key": b"true",
        b"lance-schema:unenforced-primary-key:position": str(position).encode(),
    }
    return pa.field(name, kind, nullable=False, metadata=marks)


def _table(*fields: pa.Field) -> pa.Schema:
    """The schema of one of our tables; its first field says which schema version wrote it."""
    first = fields[0]
    marks = {**(first.metadata or {}), VERSION_KEY: str(SCHEMA_VERSION).encode()}
    return pa.schema([first.with_metadata(marks), *fields[1:]])


DOCUMENTS = _table(
    _key(1, "doc_id", pa.string()),
    pa.field("title", pa.string()),
    _nn("text", pa.string()),
    _nn("row_hash", HASH),
    _nn("text_hash", HASH),
    pa.field("parent_id", pa.string()),
    pa.field("start", pa.int32()),
    pa.field("end", pa.int32()),
)
"""Without `vector` (its width is the encoder's) and the user's own columns: see `documents`."""

VECTORS = _table(
    _key(1, "doc_id", pa.string()),
    _nn("text_hash", HASH),
)
"""Vectors that `documents` does not hold: without `vector` and the columns that filters use."""

QUERIES = _table(
    _key(1, "query_set", pa.string()),
    _key(2, "query_id", pa.string()),
    _nn("text", pa.string()),
    _nn("text_hash", HASH),
    pa.field("tags", pa.list_(pa.string())),
    pa.field("vector", pa.list_(pa.float32())),
    pa.field("metadata", pa.string()),
)
"""`vector`: where the set brings its own; `metadata`: JSON of the user's other columns."""

SEARCHES = _table(
    _key(1, "search_id", pa.string()),
    _key(2, "chunk", pa.int32()),
    _key(3, "epoch", pa.int32()),
    _key(4, "attempt", pa.string()),
    _nn("queries", pa.int32()),
    _nn("hits_vector", pa.int64()),
    _nn("hits_fts", pa.int64()),
    _nn("no_hits", pa.int32()),
    _nn("documents_version", pa.int64()),
    _nn("searched_at", TIME),
)
"""A row marks a chunk as searched and names the attempt whose candidates count: the first does."""

RECALLS = _table(
    _key(1, "audit_id", pa.string()),
    _nn("search_id", pa.string()),
    _nn("index_type", pa.string()),
    _nn("queries", pa.int32()),
    _nn("limit", pa.int32()),
    _nn("recall", pa.float64()),
    _nn("recall_before", pa.float64()),
    pa.field("nprobes", pa.int32()),
    pa.field("ef", pa.int32()),
    pa.field("refine_factor", pa.int32()),
    _nn("bypassed", pa.bool_()),
    _nn("measured_at", TIME),
)
"""What a vector index finds of exact search's hits: as it was searched first, and as is raised to.

`audit_id` names the inputs it was measured of, `search_id` the search that what was found makes.
"""

CANDIDATES = _table(
    _nn("search_id", pa.string()),
    _nn("chunk", pa.int32()),
    _nn("attempt", pa.string()),
    _nn("query_id", pa.string()),
    _nn("doc_id", pa.string()),
    _nn("query_hash", HASH),
    _nn("doc_hash", HASH),
    pa.field("vector_rank", pa.int32()),
    pa.field("_distance", pa.float32()),
    pa.field("fts_rank", pa.int32()),
    pa.field("_score", pa.float32()),
)

PAIR_SCORES = _table(
    _nn("query_hash", HASH),
    _nn("doc_hash", HASH),
    _nn("reranker", HASH),
    _nn("score", pa.float32()),
    _nn("epoch", pa.int32()),
    pa.field("tokens", pa.int32()),
)
"""`tokens` of the whole pair, before it is cut to what the reranker reads; null where unknown."""

RUNS = _table(
    _key(1, "run_id", pa.string()),
    _nn("search_id", pa.string()),
    _nn("pipeline", pa.string()),
    _nn("status", pa.string()),
    _nn("epoch", pa.int32()),
    _nn("query_set", pa.string()),
    _nn("query_types", pa.list_(pa.string())),
    _nn("queries_version", pa.int64()),
    _nn("queries_content", pa.string()),
    _nn("documents_content", pa.string()),
    _nn("documents_table", pa.string()),
    _nn("documents_version", pa.int64()),
    pa.field("encoder", pa.string()),
    pa.field("reranker", pa.string()),
    pa.field("refiner", pa.string()),
    pa.field("reranker_model", pa.string()),
    pa.field("reranker_revision", pa.string()),
    pa.field("score_path", pa.string()),
    _nn("config_json", pa.string()),
    _nn("plan_json", pa.string()),
    _nn("libraries_json", pa.string()),
    _nn("counts_json", pa.string()),
    _nn("seconds_json", pa.string()),
    _nn("started_at", TIME),
    pa.field("finished_at", TIME),
    pa.field("failure", pa.string()),
    pa.field("committed_at", TIME),
)
"""`pipeline` names query set and documents table (of earlier versions: a digest of the settings);
`failure` says why an unfinished run ended; `committed_at` when it last committed scores, about.
"""

PROMOTIONS = _table(
    _key(1, "name", pa.string()),
    _nn("run_id", pa.string()),
    _nn("promoted_at", TIME),
)

JUDGMENTS = _table(
    _key(1, "judgment_list", pa.string()),
    _nn("query_set", pa.string()),
    _key(2, "query_id", pa.string()),
    _nn("query_hash", HASH),
    _key(3, "doc_id", pa.string()),
    _nn("relevance", pa.int32()),
    _key(4, "source", pa.string()),
    pa.field("judged_at", TIME),
)

METRICS = _table(
    _nn("run_id", pa.string()),
    _nn("judgment_list", pa.string()),
    _nn("judgments_fp", pa.string()),
    _nn("query_type", pa.string()),
    _nn("stage", pa.string()),
    _nn("query_id", pa.string()),
    _nn("measure", pa.string()),
    _nn("value", pa.float64()),
)

LABEL_SETS = _table(
    _key(1, "label_set", pa.string()),
    _nn("runs", pa.list_(pa.string())),
    _nn("rule", pa.string()),
    pa.field("calibration", pa.string()),
    _nn("created_at", TIME),
)

LABELS = _table(
    _nn("label_set", pa.string()),
    _nn("query_id", pa.string()),
    _nn("doc_id", pa.string()),
    _nn("query_hash", HASH),
    _nn("doc_hash", HASH),
    pa.field("label", pa.int32()),
    pa.field("probability", pa.float64()),
    _nn("score", pa.float32()),
)
"""`label` is null where the rule abstains: the pair is `unsure` and goes to review."""

REJECTS = _table(
    _key(1, "source_fp", pa.string()),
    _key(2, "row_number", pa.int64()),
    pa.field("id", pa.string()),
    _nn("reason", pa.string()),
    pa.field("raw", pa.string()),
    _nn("rejected_at", TIME),
)

INGESTS = _table(
    _key(1, "documents_table", pa.string()),
    _nn("mark", pa.string()),
    _nn("content", pa.string()),
    _nn("counts_json", pa.string()),
    _nn("reasons_json", pa.string()),
    _nn("completed_at", TIME),
)
"""The last completed ingest of a documents table: `mark` names its source's bytes and settings."""

TABLES: Final[dict[str, pa.Schema]] = {
    "documents": DOCUMENTS,
    "queries": QUERIES,
    "searches": SEARCHES,
    "recalls": RECALLS,
    "candidates": CANDIDATES,
    "pair_scores": PAIR_SCORES,
    "runs": RUNS,
    "promotions": PROMOTIONS,
    "judgments": JUDGMENTS,
    "metrics": METRICS,
    "label_sets": LABEL_SETS,
    "labels": LABELS,
    "rejects": REJECTS,
    "ingests": INGESTS,
}
"""Every table of a fixed name; `results_{run_id}` and documents tables of other names are ours too.
"""


def results_schema(run_id: str, epoch: int, columns: list[pa.Field]) -> pa.Schema:
    """The schema of `results_{run_id}`; its metadata is the run's done-mark.

    `columns` are the score columns after `_relevance_score`, then any that consumers asked for.
    """
    fields = [
        _nn("query_id", pa.string()),
        _nn("query_type", pa.string()),
        _nn("rank", pa.int32()),
        _nn("doc_id", pa.string()),
        _nn("_relevance_score", pa.float32()),
        *columns,
    ]
    marks = {b"rescore.run_id": run_id.encode(), b"rescore.epoch": str(epoch).encode()}
    return _table(*fields).with_metadata(marks)


def shared_schema(
    results: pa.Schema, columns: list[pa.Field], marks: dict[bytes, bytes]
) -> pa.Schema:
    """The schema of a consumers' table that several query sets share; `results` is one of a run."""
    keys = {"query_set": 1, "query_id": 2, "query_type": 3, "rank": 4}
    own = [_key(1, "query_set", pa.string()), *results]
    fields = [_key(keys[f.name], f.name, f.type) if f.name in keys else f for f in own]
    return _table(*fields, *columns, _nn("run_id", pa.string())).with_metadata(marks)


def key_of(schema: pa.Schema) -> list[str]:
    """The names of the schema's key columns, in key order."""
    mark = b"lance-schema:unenforced-primary-key"
    keys = [f for f in schema if f.metadata and mark in f.metadata]
    return [f.name for f in sorted(keys, key=lambda f: int(f.metadata[mark + b":position"]))]


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table` with exactly the schema's columns, order and types; missing nullable ones are null.

    Raises InputError for a column that is missing, superfluous, of a type that cannot be cast
    without loss, or null where nulls are not allowed.
    """
    extra = [n for n in table.column_names if n not in schema.names]
    missing = [f.name for f in schema if f.name not in table.column_names and not f.nullable]
    if extra or missing:
        raise InputError(f"table has columns {extra} too many and lacks {missing}")
    arrays: list[pa.Array | pa.ChunkedArray] = []
    for field in schema:
        if field.name not in table.column_names:
            arrays.append(pa.nulls(table.num_rows, field.type))
            continue
        column = table.column(field.name)
        if column.type != field.type:
            try:
                column = column.cast(field.type)
            except pa.ArrowInvalid as error:
                raise InputError(
                    f"column {field.name!r} is {column.type}, expected {field.type}: {error}"
                ) from error
        if not field.nullable and column.null_count:
            row = pc.index(column.is_null(), True).as_py()
            raise InputError(f"column {field.name!r} must not be null; row {row} is")
        arrays.append(column)
    return pa.Table.from_arrays(arrays, schema=schema)
