"""The table for consumers: of a stable name, replaced in one commit, and never by others' results.

It belongs to one query set over one documents table, or (`results.shared`) to several query sets,
each of which replaces its own rows. It may stand in another database. A process that dies between
a run's results and this table leaves the table as it was; the next start of the command finds the
run finished and publishes it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from configs.results import Results
from reranking.arrow import frame, row_bytes, spans
from reranking.corpus.corpus import Corpus, columns_of, string_ids
from reranking.corpus.fields import type_of
from reranking.errors import ConfigError, MissingResource
from reranking.fingerprints import canonical
from reranking.runs.listing import find_run
from reranking.runs.promotion import promoted_run
from reranking.runs.publish import SCORE_FIELDS
from reranking.runs.rows import stored_row
from reranking.runs.run import Run
from reranking.schemas import results_schema, shared_schema
from reranking.store import Database, equals

log = logging.getLogger(__name__)

OWNER = b"rescore.owner"
SHARED = b"shared"  # in the place of a run's id: each row names its own
_RUN, _EPOCH, _COLUMNS = b"rescore.run_id", b"rescore.epoch", b"rescore.columns"
_RESULTS = {*results_schema("", 0, SCORE_FIELDS).names}


@dataclass(frozen=True)
class Published:
    """What consumers see: the table, the run, its rows and queries, the table's version.

    `changed` is false where the table held the run already.
    """

    table: str
    database: str
    run_id: str
    changed: bool
    rows: int
    queries: int
    version: int

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON-like values."""
        return asdict(self)


def place_of(database: Database, wanted: Results) -> Database:
    """The consumers' database."""
    return database if wanted.place is None else Database(wanted.place)


def serve(run: Run, wanted: Results, against: str) -> Published | None:
    """Publish the run, or the promoted one if `results.serve` says so; None if there is none.

    `against` is the name that it is promoted by.
    """
    if wanted.table is None:
        return None
    if wanted.serve == "promoted":
        promoted = promoted_run(run.database, against)
        if promoted is None:
            log.warning(
                "table %r is left as it is: results.serve is promoted, and no run is promoted as "
                "%r. Name one with `rescore promote RUN_ID --as %s --publish --config CONFIG`",
                *(wanted.table, against, against),
            )
            return None
        run = find_run(run.database, promoted)
    return publish_for_consumers(run, wanted)


def publish_for_consumers(run: Run, wanted: Results) -> Published:
    """Bring the consumers' table to this run's results; what it holds then.

    Returns once the index of `query_id` is built. Raises MissingResource where a table of that name
    was not published by rescore, ConfigError where it holds others' results.
    """
    name = wanted.table
    if name is None:
        raise ConfigError("the config has no results.publish: there is no table for consumers")
    home = place_of(run.database, wanted)
    check_owner(run.database, wanted, run.queries.name, run.corpus)
    check_columns(run.database, run.corpus, wanted)
    write = _share if wanted.shared else _replace
    changed = write(run, home, name, wanted.columns)
    _index(home, name)
    table = home.need(name)
    where = equals("query_set", run.queries.name).to_sql() if wanted.shared else None
    results = run.database.need(run.results_table)
    return Published(
        name,
        home.uri,
        run.run_id,
        changed,
        rows=table.count_rows(where),
        queries=len(pc.unique(_column(results, "query_id"))),
        version=int(table.version),
    )


def _column(table: Any, name: str) -> pa.ChunkedArray:
    return table.search().select([name]).to_arrow().column(name)


def _replace(run: Run, home: Database, name: str, columns: Sequence[str]) -> bool:
    """Replace the whole table by the run's results; whether that was needed."""
    marks = consumer_marks(home, name)
    results = run.database.need(run.results_table).schema
    fields = _consumer_fields(run, columns)
    wanted = _marks(run.run_id.encode(), results, columns)
    kind = _id_type(run)
    current = None if marks is None else home.need(name).schema
    same = marks is not None and {k: marks.get(k) for k in wanted} == wanted
    if same and current is not None and current.field("doc_id").type == kind:
        return False
    wanted[OWNER] = _owner(run.queries.name, documents_name(run.corpus))
    schema = pa.schema([*_with_ids(results, kind), *fields]).with_metadata(wanted)

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in run.database.stream(run.results_table):
            yield from _with_columns(run, batch, columns, schema)

    try:
        home.publish(name, schema, batches, replace=marks is not None)
    except FileExistsError:  # made meanwhile, by a process that publishes too or by somebody else
        return _replace(run, home, name, columns)
    return True


def _share(run: Run, home: Database, name: str, columns: Sequence[str]) -> bool:
    """Replace the rows of the run's query set; whether that was needed."""
    results = run.database.need(run.results_table).schema
    marks = {_RUN: SHARED, OWNER: SHARED, _COLUMNS: canonical(list(columns)).encode()}
    fields = _consumer_fields(run, columns)
    schema = shared_schema(pa.schema(_with_ids(results, _id_type(run))), fields, marks)
    table = home.open(name)

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in run.database.stream(run.results_table):
            yield from _with_columns(run, batch, columns, schema)

    if table is None:
        try:
            home.publish(name, schema, batches, replace=False)
        except FileExistsError:  # another query set was first
            return _share(run, home, name, columns)
        return True
    _refuse_other_columns(name, table.schema, schema)
    own = equals("query_set", run.queries.name)
    held = home.read(name, own, ["run_id"]).column("run_id").unique().to_pylist()
    for other in held:
        row = stored_row(run.database, other)
        if row is not None and row["documents_table"] != run.corpus.table:
            raise ConfigError(
                f"results.publish: table {name!r} holds results of query set {run.queries.name!r} "
                f"over table {row['documents_table']!r}, which those over {run.corpus.table!r} "
                "would erase. Name the query set otherwise, or choose another results.publish"
            )
    if held == [run.run_id] and not run.epoch:
        return False
    home.merge(name, pa.Table.from_batches(list(batches()), schema), schema, replacing=own)
    return True


def _refuse_other_columns(name: str, stored: pa.Schema, wanted: pa.Schema) -> None:
    if [(f.name, f.type) for f in stored] != [(f.name, f.type) for f in wanted]:
        raise ConfigError(
            f"results.publish: the shared table {name!r} has the columns {stored.names}, this run "
            f"gives {wanted.names}, or one of another type. Those who share a table have the same "
            "results.columns, rerank.return_score and type of document id: make them equal, or "
            "choose another table"
        )


def _index(home: Database, name: str) -> None:
    """Build the index of query_id, unless it covers every row: readers scan until it is there."""
    from lancedb.index import BTree

    table = home.need(name)
    for entry in table.list_indices():
        if list(entry.columns) == ["query_id"]:
            stats = table.index_stats(entry.name)
            if stats is not None and not stats.num_unindexed_rows:
                return
    home.create_index(name, "query_id", BTree())


def consumer_marks(home: Database, name: str) -> dict[bytes, bytes] | None:
    """What the table of a stable name says of the run it holds, None if it does not exist.

    Raises MissingResource where a table of that name was not published by rescore.
    """
    table = home.open(name)
    if table is None:
        return None
    marks: dict[bytes, bytes] = table.schema.metadata or {}
    if _RUN not in marks:
        raise MissingResource(
            f"table {name!r} in {home.uri} was made by somebody else and is left as it is: "
            "choose another results.publish, or drop that table"
        )
    return marks


def check_owner(database: Database, wanted: Results, query_set: str, corpus: Corpus) -> None:
    """Raise ConfigError if the consumers' table holds results of other queries or documents.

    A table belongs to one query set over one documents table; another limit, filter or model is
    still the same. Tables of earlier versions say it by the run that they hold.
    """
    name = wanted.table
    home = None if name is None else place_of(database, wanted)
    marks = None if home is None or name is None else consumer_marks(home, name)
    if marks is None:
        return
    if (marks[_RUN] == SHARED) != wanted.shared:
        is_so = "is shared by several query sets" if marks[_RUN] == SHARED else "is not shared"
        raise ConfigError(
            f"results.publish: table {name!r} {is_so}: set results.shared to "
            f"{'true' if marks[_RUN] == SHARED else 'false'}, or choose another name"
        )
    owner = marks.get(OWNER)
    if owner is None:
        row = stored_row(database, marks[_RUN].decode())
        if row is None:  # the run was forgotten: nobody is left whose results they are
            return
        owner = _owner(row["query_set"], row["documents_table"])
    documents = documents_name(corpus)
    if owner not in (SHARED, _owner(query_set, documents)):
        theirs = json.loads(owner)
        raise ConfigError(
            f"results.publish: table {name!r} holds the results of query set {theirs[0]!r} over "
            f"table {theirs[1]!r}, which those of {query_set!r} over {documents!r} would erase. "
            "Choose another name for results.publish, declare the table shared (results.shared: "
            "true) in all configs that publish it, or drop that table"
        )


def documents_name(corpus: Corpus) -> str:
    """The documents table's name, with its database where that is another one."""
    return corpus.table if corpus.home is None else f"{corpus.home}/{corpus.table}"


def _owner(query_set: str, documents: str) -> bytes:
    return canonical([query_set, documents]).encode()


def _marks(run_id: bytes, results: pa.Schema, columns: Sequence[str]) -> dict[bytes, bytes]:
    return {
        _RUN: run_id,
        _EPOCH: results.metadata[_EPOCH],
        _COLUMNS: canonical(list(columns)).encode(),
    }


def check_columns(database: Database, corpus: Corpus, wanted: Results) -> None:
    """Raise ConfigError if consumers ask for columns that results cannot carry."""
    schema, columns = corpus.opened(database).schema, wanted.columns
    documents = schema.names
    taken = _RESULTS | ({"query_set", "run_id"} if wanted.shared else set())
    possible = ["query_text", *(n for n in documents if n not in taken)]
    wrong = [c for c in columns if c not in possible]
    if wrong or len(set(columns)) < len(columns):
        raise ConfigError(
            f"results.columns: {wrong or list(columns)} are not columns of the documents that "
            f"results can carry, each once; choose from {possible}"
            + ("; a column of fields is carried whole" if any("." in c for c in wrong) else "")
        )
    for column in columns:
        if column in documents and not _is_carried(schema.field(column)):
            raise ConfigError(
                f"results.columns: results cannot carry {column!r} of table "
                f"{corpus.table!r}, which is {_type_name(schema.field(column))}; leave it "
                "out, or give the table a column with the same values as text or decimal128"
            )


_EXTENSION = b"ARROW:extension:name"


def _is_carried(field: pa.Field) -> bool:
    """Whether values of the field come through the join with the ranking as they are."""
    kind = field.type
    if isinstance(kind, pa.BaseExtensionType) or _EXTENSION in (field.metadata or {}):
        return False
    if pa.types.is_decimal256(kind) or pa.types.is_map(kind) or pa.types.is_union(kind):
        return False
    return all(_is_carried(kind.field(i)) for i in range(kind.num_fields))


def _type_name(field: pa.Field) -> str:
    name: bytes = (field.metadata or {}).get(_EXTENSION, str(field.type).encode())
    return name.decode()


def _consumer_fields(run: Run, columns: Sequence[str]) -> list[pa.Field]:
    documents = run.corpus.opened(run.database).schema
    return [
        pa.field(c, pa.string() if c == "query_text" else documents.field(c).type) for c in columns
    ]


def _id_type(run: Run) -> pa.DataType:
    """The type of the source's ids: consumers join by them."""
    if run.corpus.managed:
        return pa.string()
    kind = type_of(run.corpus.opened(run.database).schema, run.corpus.id)
    return kind if pa.types.is_integer(kind) else pa.string()


def _with_ids(results: pa.Schema, kind: pa.DataType) -> list[pa.Field]:
    return [f.with_type(kind) if f.name == "doc_id" else f for f in results]


def _with_columns(
    run: Run,
    batch: pa.RecordBatch,
    columns: Sequence[str],
    schema: pa.Schema,
) -> Iterator[pa.RecordBatch]:
    """The rows with the consumers' columns, in batches of a bounded number of bytes."""
    rows = frame(batch)
    from_documents = [c for c in columns if c != "query_text"]
    if from_documents:
        ids = rows["doc_id"].unique().to_list()
        parts = [
            frame(part.select(from_documents)).with_columns(
                doc_id=pl.Series(string_ids(part.column(run.corpus.id), run.corpus))
            )
            for part in columns_of(run.database, run.corpus, ids, from_documents)
        ]
        rows = rows.join(pl.concat(parts), on="doc_id", how="left", maintain_order="left")
    if "query_text" in columns:
        texts = frame(run.query_rows.select(["query_id", "text"])).rename({"text": "query_text"})
        rows = rows.join(texts, on="query_id", how="left", maintain_order="left")
    own: Mapping[str, str] = {"query_set": run.queries.name, "run_id": run.run_id}
    rows = rows.with_columns(**{k: pl.lit(v) for k, v in own.items() if k in schema.names})
    rows = rows.select(schema.names)
    for start, end in spans(row_bytes(rows)):
        # taken row by row: a slice of lists would keep the offsets of the whole
        part = rows if end - start == len(rows) else rows[list(range(start, end))]
        table = part.to_arrow().cast(schema)
        yield from table.combine_chunks().to_batches()
