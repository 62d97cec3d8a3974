"""The database: the one place where LanceDB tables are opened, created and committed to.

Handles are snapshots, so every call opens its table afresh; a pinned read names its version.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
from lancedb.expr import Expr, col, lit

from configs.source import database_place
from reranking.arrow import lacks_vectors
from reranking.compaction import KEEP_ALL, SMALL_FILES, compact_small_files
from reranking.damage import damaged, has_lost_its_manifests, is_damage
from reranking.errors import ConfigError, MissingPrerequisite, MissingResource, RuntimeFailure
from reranking.reading import batches, query
from reranking.retry import failure, first_line, is_taken, is_transient, retry
from reranking.schemas import SCHEMA_VERSION, TABLES, VERSION_KEY, conform, key_of

# Bytes. lancedb would keep up to 1 GB of manifests, one per commit, each longer than the last.
METADATA_CACHE = 64 << 20


class Database:
    """LanceDB tables under one URI: a folder or `s3://bucket/prefix`."""

    def __init__(self, uri: str, *, must_exist: bool = False, upgrading: bool = False) -> None:
        try:
            database_place(uri)
        except ValueError as error:
            raise ConfigError(f"database: {error}") from None
        self.uri = uri
        self._appended: Counter[str] = Counter()
        self._upgrading = upgrading  # tables of an older schema may be opened
        if must_exist and "://" not in uri and not Path(uri).is_dir():
            raise MissingResource(f"no database at {uri}: expected a folder of LanceDB tables")
        try:
            session = lancedb.Session(metadata_cache_size_bytes=METADATA_CACHE)
            self._connection = lancedb.connect(uri, session=session)
        except OSError as error:
            raise MissingPrerequisite(
                f"database {uri} cannot be opened: {first_line(error)}. Expected is a folder that "
                "this user may write, or one that can be made: correct `database` or its "
                "permissions"
            ) from error
        except Exception as error:
            raise failure(f"database {uri} cannot be opened", error) from error
        if must_exist and "://" in uri and not self.names():
            raise MissingResource(f"no database at {uri}: expected LanceDB tables below that URI")

    @property
    def place(self) -> str:
        """The URI as LanceDB's asynchronous client takes it: `db` alone would mean its cloud."""
        return self.uri if "://" in self.uri else str(Path(self.uri).absolute())

    def __reduce__(self) -> tuple[type[Database], tuple[str]]:
        """Another process opens the same database by its URI."""
        return Database, (self.uri,)

    def names(self) -> list[str]:
        """The names of all tables."""
        names: list[str] = []
        page = None
        while True:
            answer = self._connection.list_tables(page_token=page, limit=1000)
            names += answer.tables
            page = answer.page_token
            if not page:
                return names

    def open(self, name: str, version: int | None = None) -> Any:
        """The table, at a version if one is given, or None if it does not exist.

        The folder that a killed writer left before its first commit is no table. Raises
        MissingResource where the table is broken, of another schema, or lacks the version.
        """

        def opened() -> Any:
            try:
                table = self._connection.open_table(name)
            except Exception as error:
                if f"table '{name}' was not found" not in str(error).lower():
                    raise
                if has_lost_its_manifests(self.uri, name):
                    raise damaged(self.uri, name, "its list of versions is gone") from None
                return None
            _check(name, table.schema, self._upgrading)
            if version is not None:
                table.checkout(version)
            return table

        what = f"table {name!r} in {self.uri} cannot be opened"
        try:
            return retry(what, opened)
        except RuntimeFailure as error:
            at = "" if version is None else f" at version {version}"
            raise MissingResource(f"{what}{at}: {first_line(error.__cause__ or error)}") from error

    def need(self, name: str, version: int | None = None) -> Any:
        """The table; raises MissingResource if it does not exist."""
        table = self.open(name, version)
        if table is None:
            known = ", ".join(sorted(self.names())) or "none"
            raise MissingResource(f"no table {name!r} in {self.uri} (tables there: {known})")
        return table

    def ensure(self, name: str, schema: pa.Schema, needs: Sequence[str] | None = None) -> Any:
        """The table, created empty where it is missing; a racing creator is met half-way.

        Columns that came after the table was made are added, empty. Raises MissingResource where a
        table of that name lacks the columns `needs` (None: all that must not be null).
        """
        table = self.open(name)
        if table is None:
            table = self._create(name, schema)
        lacking = sorted({*(needs or schema.names)} - {*table.schema.names})
        if lacking and not needs and all(schema.field(n).nullable for n in lacking):
            return self.add_columns(name, schema)
        if lacking:
            raise MissingResource(
                f"table {name!r} in {self.uri} is not rescore's: it lacks {lacking}. "
                "Use another database, or rename that table."
            )
        return table

    def _create(self, name: str, schema: pa.Schema) -> Any:
        def create() -> Any:
            try:
                return self._connection.create_table(name, schema=schema)
            except Exception as error:
                if not is_taken(error):
                    raise
                return self.open(name)  # a racing creator's, perhaps not to be seen yet

        table = retry(
            f"creating table {name!r} in {self.uri}", create, until=lambda table: table is not None
        )
        if table is None:
            raise RuntimeFailure(
                f"table {name!r} in {self.uri} is being created by another process: start the "
                "command again"
            )
        return table

    def add_columns(self, name: str, fields: Iterable[pa.Field]) -> Any:
        """The table, with those of the fields that it lacks added as empty columns."""

        def add() -> Any:
            table = self.need(name)  # another writer may just have added some of them
            new = [f.with_nullable(True) for f in fields if f.name not in table.schema.names]
            if not new:
                return table
            table.add_columns(new)
            return self.need(name)

        return retry(f"adding columns to {name}", add)

    def append(self, name: str, rows: pa.Table) -> None:
        """Commit `rows` at the end of one of our tables; its cost does not grow with the table."""
        schema = TABLES.get(name, rows.schema)
        data = conform(rows, schema)
        if not data.num_rows:
            return
        retry(f"appending to {name}", lambda: self.ensure(name, schema).add(data))
        self._appended[name] += 1
        if self._appended[name] % SMALL_FILES == 0:
            compact_small_files(self.need(name), name)

    def merge(
        self,
        name: str,
        rows: pa.Table,
        schema: pa.Schema,
        *,
        insert: bool = True,
        update: str | bool = True,
        replacing: Expr | None = None,
    ) -> None:
        """Commit `rows` by key: insert new keys, update known ones, all or nothing.

        insert: without it, rows of unknown keys are left out and columns may be left out, too.
        update: True, False, or a condition on `target.` columns that must hold for an update.
        replacing: also delete the rows that match it and are not among `rows`.

        The key's scalar index is never used: the indexed path lets racing merges duplicate.
        """
        data = conform(rows, schema)
        if not data.num_rows and replacing is None:
            return
        bad_vectors = "null" if lacks_vectors(data) else "error"

        def commit() -> None:
            builder = self.ensure(name, schema).merge_insert(key_of(schema))
            if insert:
                builder = builder.when_not_matched_insert_all()
            if update:
                where = update if isinstance(update, str) else None
                builder = builder.when_matched_update_all(where=where)
            if replacing is not None:
                builder = builder.when_not_matched_by_source_delete(replacing)
            builder.use_index(False).execute(data, on_bad_vectors=bad_vectors)

        retry(f"merging into {name}", commit)

    def delete(self, name: str, where: Expr) -> None:
        """Commit the deletion of the rows that match."""
        if self.open(name) is not None:
            retry(f"deleting from {name}", lambda: self.need(name).delete(where))

    def publish(
        self,
        name: str,
        schema: pa.Schema,
        batches: Callable[[], Iterator[pa.RecordBatch]],
        *,
        replace: bool,
    ) -> None:
        """Create the table with all its rows in one commit; `replace` overwrites an old one.

        `batches` is called again where a transient fault asks for another try; what it raises is
        raised as it is. Raises FileExistsError where the table exists and `replace` is false.
        """
        own: list[Exception] = []

        def watched() -> Iterator[pa.RecordBatch]:
            try:
                yield from batches()
            except Exception as error:
                own.append(error)
                raise

        def write() -> None:
            own.clear()
            reader = pa.RecordBatchReader.from_batches(schema, watched())
            mode = "overwrite" if replace else "create"
            try:
                self._connection.create_table(name, reader, schema=schema, mode=mode)
            except Exception as error:
                if own:  # LanceDB would hand on no more than its text
                    raise own[0] from None
                if not replace and is_taken(error):
                    raise FileExistsError(name) from error
                raise

        retry(f"writing table {name!r}", write)

    def drop(self, name: str) -> None:
        """Remove the table with everything in it; no error if it does not exist."""
        self._connection.drop_table(name, ignore_missing=True)

    def read(
        self,
        name: str,
        where: Expr | str | None = None,
        columns: list[str] | None = None,
        version: int | None = None,
    ) -> pa.Table:
        """The matching rows; a table without rows and columns if it does not exist."""
        table = self.open(name, version)
        if table is None:
            return pa.table({})
        with self._undamaged(name):
            return query(table, where, columns).to_arrow()

    def stream(
        self,
        name: str,
        where: Expr | str | None = None,
        columns: list[str] | None = None,
        version: int | None = None,
        *,
        row_ids: bool = False,
        rows: int = 50_000,
    ) -> Iterator[pa.RecordBatch]:
        """The matching rows, at most so many at a time; nothing if it does not exist.

        row_ids: also a column `_rowid` uint64, which compaction and updates change.
        """
        table = self.open(name, version)
        if table is None:
            return
        with self._undamaged(name):
            yield from batches(table, where, columns, row_ids=row_ids, rows=rows)

    @contextmanager
    def _undamaged(self, name: str) -> Iterator[None]:
        """Say which table it is whose file cannot be read."""
        try:
            yield
        except Exception as error:
            if is_transient(error) or not is_damage(error):
                raise
            raise damaged(self.uri, name, first_line(error)) from error

    def tag(self, name: str, tag: str, version: int) -> None:
        """Point the table's tag at a version, which keeps that version from being pruned."""

        def point() -> None:
            tags = self.need(name).tags
            if tag not in tags.list():
                try:
                    tags.create(tag, version)
                    return
                except Exception as error:
                    if not is_taken(error):  # else made by a racing process just now
                        raise
            tags.update(tag, version)

        retry(f"tagging {name}", point)

    def untag(self, name: str, tag: str) -> None:
        """Remove the table's tag; no error if it does not exist."""
        table = self.open(name)
        if table is not None and tag in table.tags.list():
            table.tags.delete(tag)

    def tagged(self, name: str, tag: str) -> int | None:
        """The version that the table's tag points at, or None."""
        return self.tags(name).get(tag)

    def tags(self, name: str) -> dict[str, int]:
        """The table's tags and the versions they point at."""
        table = self.open(name)
        tags = {} if table is None else table.tags.list()
        return {tag: int(entry["version"]) for tag, entry in tags.items()}

    def optimize(self, name: str) -> None:
        """Fold new rows into the table's indexes and compact it; no version is pruned."""
        retry(f"optimizing {name}", lambda: self.need(name).optimize(cleanup_older_than=KEEP_ALL))

    def create_index(self, name: str, column: str, config: Any) -> None:
        """Commit an index of the column; raises ConfigError for one that LanceDB refuses."""

        def create() -> None:
            table = self.need(name)
            try:
                table.create_index(column, config=config, replace=True)
            except ValueError as error:  # a language without a stemmer, a PQ that does not fit
                reason = " ".join(str(error).split())
                raise ConfigError(
                    f"the index of column {column!r} cannot be made: {reason}"
                ) from error

        retry(f"indexing {name}", create)


def equals(column: str, value: object) -> Expr:
    """The condition that a column equals a value, safe for any value."""
    return col(column) == lit(value)


def one_of(column: str, values: Iterable[Any]) -> Expr:
    """The condition that a column is one of the values, safe for any value."""
    return col(column).isin(list(values))


def schema_version(schema: pa.Schema) -> int | None:
    """The schema version that a table of ours says it has, None for somebody else's table."""
    mark = (schema.field(0).metadata or {}).get(VERSION_KEY) if schema.names else None
    return None if mark is None else int(mark)


def _check(name: str, schema: pa.Schema, upgrading: bool) -> None:
    """Raise MissingResource where somebody else made a table of a name of ours, or another version.

    A documents table may be anybody's: the config says what its columns are called.
    """
    stored = schema_version(schema)
    if stored is None:
        wanted = [] if name == "documents" else TABLES.get(name, [])
        lacking = [f.name for f in wanted if not f.nullable and f.name not in schema.names]
        if lacking:
            raise MissingResource(
                f"table {name!r} is not rescore's: it lacks {lacking}. Use another database, or "
                "rename that table."
            )
        return
    if stored > SCHEMA_VERSION:
        raise MissingResource(
            f"table {name!r} has schema version {stored}; this rescore knows {SCHEMA_VERSION}. "
            "Install a newer rescore."
        )
    if stored < SCHEMA_VERSION and not upgrading:
        raise MissingResource(
            f"table {name!r} has schema version {stored}; this rescore works with "
            f"{SCHEMA_VERSION}. Run `rescore maintain CONFIG`, which upgrades the database."
        )
