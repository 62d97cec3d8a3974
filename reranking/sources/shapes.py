"""From a source's columns to ours: which names we look for, and what a good value is.

Identifiers come in three spellings: ir_datasets (`query_id, doc_id, relevance`), BEIR
(`_id`, or `query-id, corpus-id, score`) and PyTerrier (`qid, docno, label`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from reranking.errors import InputError
from reranking.sources import values as clean
from reranking.sources.rows import Fault, Reject, Row, rejected

MAX_COLUMNS = 10_000


@dataclass(frozen=True)
class Field:
    """One of our columns: the names it may have in a source, best first, and its cleaning.

    A row without a required one is faulty; a header must also have the optional ones asked for.
    """

    name: str
    spellings: tuple[str, ...]
    clean: Callable[[str, object], object]
    required: bool = False
    asked: bool = False


@dataclass(frozen=True)
class Shape:
    """The columns of one kind of source; the first is the id that rejects carry.

    `keeps_rest` says whether other columns go along under their own names.
    """

    kind: str
    fields: tuple[Field, ...]
    keeps_rest: bool = False

    def mapped(self, columns: Mapping[str, str]) -> Shape:
        """This shape reading our columns from theirs: `columns` is ours -> theirs."""
        known = {field.name: field for field in self.fields}
        extra = {ours: Field(ours, (), clean.anything) for ours in columns if ours not in known}
        fields = {**known, **extra}
        for ours, theirs in columns.items():
            fields[ours] = replace(fields[ours], spellings=(theirs,), asked=True)
        return replace(self, fields=tuple(fields.values()))

    def id_columns(self, present: Sequence[str]) -> list[str]:
        """Those of the columns `present` that hold ids."""
        cleaners = (clean.identifier, clean.optional_identifier)
        names = [
            next((name for name in field.spellings if name in present), None)
            for field in self.fields
            if field.clean in cleaners
        ]
        return [name for name in names if name is not None]

    def check(self, path: str, present: Collection[str]) -> None:
        """Raise InputError if the header `present` lacks a required or an asked-for column."""
        for field in self.fields:
            wanted = field.required or field.asked
            if wanted and not any(name in present for name in field.spellings):
                names = " or ".join(repr(name) for name in field.spellings)
                raise InputError(
                    f"{path} has no column for {field.name}: looked for {names}, found "
                    f"{sorted(present)}; say which it is in `columns: {{{field.name}: ...}}`"
                )

    def values(self, row: Mapping[str, object]) -> dict[str, object]:
        """The row under our names; raises Fault for a value that cannot be used."""
        found: dict[str, object] = {}
        used = []
        for field in self.fields:
            name = next((name for name in field.spellings if name in row), None)
            if name is not None:
                used.append(name)
                found[field.name] = field.clean(field.name, row[name])
            elif field.required:
                names = " or ".join(repr(name) for name in field.spellings)
                raise Fault(f"no {field.name}: the row has no {names}")
        if not self.keeps_rest:
            return found
        rest = {k: clean.anything(k, v) for k, v in row.items() if k not in used and k not in found}
        return {**found, **rest}

    def row_id(self, row: Mapping[str, object]) -> str | None:
        """The row's id, if that at least is good."""
        field = self.fields[0]
        try:
            name = next(name for name in field.spellings if name in row)
            return clean.identifier(field.name, row[name])
        except (StopIteration, Fault):
            return None


def shaped(rows: Iterable[Row | Reject], shape: Shape) -> Iterator[Row | Reject]:
    """The rows under our names, each faulty one as a reject."""
    for row in rows:
        if isinstance(row, Reject):
            yield row
            continue
        try:
            yield Row(row.number, shape.values(row.values))
        except Fault as fault:
            yield rejected(row, str(fault), shape.row_id(row.values))


_QUERY_ID = Field("query_id", ("query_id", "query-id", "qid"), clean.identifier, True)
_DOC_ID = Field("doc_id", ("doc_id", "corpus-id", "docno"), clean.identifier, True)

DOCUMENTS = Shape(
    "documents",
    (
        Field("doc_id", ("doc_id", "_id", "docno", "id"), clean.identifier, True),
        Field("title", ("title",), clean.optional_text),
        Field("text", ("text",), clean.text, True),
        Field("vector", ("vector",), clean.vector),
        Field("parent_id", ("parent_id",), clean.optional_identifier),
    ),
    keeps_rest=True,
)

QUERIES = Shape(
    "queries",
    (
        Field("query_id", ("query_id", "_id", "qid", "id"), clean.identifier, True),
        Field("text", ("text", "query"), clean.text, True),
        Field("tags", ("tags",), clean.tags),
        Field("vector", ("vector",), clean.vector),
    ),
    keeps_rest=True,
)

JUDGMENTS = Shape(
    "judgments",
    (
        _QUERY_ID,
        _DOC_ID,
        Field("relevance", ("relevance", "score", "label"), clean.grade, True),
        Field("source", ("source",), clean.optional_text),
    ),
)

RANKING = Shape(
    "ranking",
    (
        _QUERY_ID,
        _DOC_ID,
        Field("score", ("score",), clean.score),
        Field("rank", ("rank",), clean.rank),
    ),
)


def check_names(path: str, names: Collection[str]) -> None:
    """Raise InputError for columns that stand twice or are too many."""
    if len(names) > MAX_COLUMNS:
        raise InputError(f"{path} has {len(names):,} columns, at most {MAX_COLUMNS:,} are read")
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise InputError(f"{path}: the header names {twice} more than once")
