"""Opens a source: documents, queries, judgments or a ranking, in whichever format it comes.

Everything streams. A bad row comes out as a Reject in its place; only what spoils the whole source
(no file, no such column, broken gzip) is raised.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from hashlib import blake2b

from configs.source import Source
from reranking.errors import ConfigError
from reranking.fingerprints import SIZE, canonical, fingerprint
from reranking.sources import shapes
from reranking.sources.arrow import lance_rows, parquet_rows
from reranking.sources.beir import beir_corpus, beir_qrels, beir_queries, corpus_file
from reranking.sources.delimited import delimited_rows, delimiter_of
from reranking.sources.files import STDIN, Shard, open_plain, shards
from reranking.sources.irdatasets import ir_dataset_rows
from reranking.sources.jsonl import ENDINGS as JSON_ENDINGS
from reranking.sources.jsonl import jsonl_rows
from reranking.sources.quepid import quepid_judgments
from reranking.sources.rows import Reject, Row
from reranking.sources.shapes import Shape, shaped
from reranking.sources.trec import QRELS, RUN, trec_rows

Reader = Callable[[Source, Shape], Iterator[Row | Reject]]


def _path(source: Source) -> str:
    assert source.path is not None, "a config's source of a format of files has a path"
    return source.path


def _file(source: Source) -> Shard:
    return shards(_path(source))[0]


def _jsonl(source: Source, shape: Shape) -> Iterator[Row | Reject]:
    return _in_turn(_files(source), jsonl_rows)


def _csv(source: Source, shape: Shape) -> Iterator[Row | Reject]:
    def read(shard: Shard) -> Iterator[Row | Reject]:
        return delimited_rows(shard, delimiter_of(shard.path), shape, source.quoting)

    return _in_turn(_files(source), read)


def _parquet(source: Source, shape: Shape) -> Iterator[Row | Reject]:
    def read(shard: Shard) -> Iterator[Row | Reject]:
        return parquet_rows(shard, shape.check)

    return _in_turn(_files(source), read)


def _in_turn(
    files: list[Shard], read: Callable[[Shard], Iterator[Row | Reject]]
) -> Iterator[Row | Reject]:
    """The rows of all files, numbered on, with the columns that the folders' names give."""
    last = 0
    for shard in files:
        before = last
        for row in read(shard):
            last = before + row.number
            if isinstance(row, Reject):
                yield replace(row, number=last)
            else:
                yield Row(last, {**shard.values, **row.values}, row.raw)


def _python_docs(source: Source, shape: Shape) -> Iterator[Row | Reject]:
    from configs.quickstart.python_docs import read_python_docs

    for number, values in enumerate(read_python_docs(), start=1):
        yield Row(number, values)


_TABLES: dict[str, Reader] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "parquet": _parquet,
    "lance": lambda source, shape: lance_rows(_path(source), shape.check),
}
DOCUMENT_FORMATS: dict[str, Reader] = {
    **_TABLES,
    "beir": lambda source, shape: beir_corpus(_path(source)),
    "ir-datasets": lambda source, shape: ir_dataset_rows(source.name, "docs"),
    "python-docs": _python_docs,
}
QUERY_FORMATS: dict[str, Reader] = {
    **_TABLES,
    "beir": lambda source, shape: beir_queries(_path(source), source.split, shape),
    "ir-datasets": lambda source, shape: ir_dataset_rows(source.name, "queries"),
}
JUDGMENT_FORMATS: dict[str, Reader] = {
    **_TABLES,
    "beir": lambda source, shape: beir_qrels(_path(source), source.split, shape),
    "ir-datasets": lambda source, shape: ir_dataset_rows(source.name, "qrels"),
    "quepid": lambda source, shape: quepid_judgments(_file(source)),
    "trec": lambda source, shape: trec_rows(_file(source), QRELS),
}
RANKING_FORMATS: dict[str, Reader] = {
    **_TABLES,
    "ir-datasets": lambda source, shape: ir_dataset_rows(source.name, "scoreddocs"),
    "trec": lambda source, shape: trec_rows(_file(source), RUN),
}


def read_documents(source: Source) -> Iterator[Row | Reject]:
    """doc_id, text, and title, vector, parent_id where the source has them; its other columns."""
    return _read(source, shapes.DOCUMENTS, DOCUMENT_FORMATS)


def read_queries(source: Source) -> Iterator[Row | Reject]:
    """query_id, text, and tags, vector where the source has them; its other columns."""
    return _read(source, shapes.QUERIES, QUERY_FORMATS)


def read_judgments(source: Source) -> Iterator[Row | Reject]:
    """query_id, doc_id, relevance (an int, negative ones too) and source if the row has one.

    Quepid's exports name no query ids: their rows have query_text instead.
    """
    return _read(source, shapes.JUDGMENTS, JUDGMENT_FORMATS)


def read_ranking(source: Source) -> Iterator[Row | Reject]:
    """query_id, doc_id and score, rank where the source has them; in the order of the source."""
    return _read(source, shapes.RANKING, RANKING_FORMATS)


def _read(source: Source, shape: Shape, formats: Mapping[str, Reader]) -> Iterator[Row | Reject]:
    if source.format not in formats:
        raise ConfigError(
            f"{shape.kind} cannot be read from format {source.format!r}: use one of "
            f"{', '.join(sorted(formats))}"
        )
    mapped = shape.mapped(source.columns)
    rows = formats[source.format](source, mapped)
    return rows if source.format == "quepid" else shaped(rows, mapped)


def source_digest(source: Source) -> str | None:
    """32 hex digits of the bytes of a documents source's files and of how they are read.

    None for a source that is no files: a table, a collection of ir-datasets.
    """
    if source.path is None or source.format not in _ENDINGS:
        return None
    total = blake2b(digest_size=SIZE)
    settings = source.model_dump(mode="json", exclude={"path", "name"})
    total.update(canonical(settings).encode("utf-8", "surrogatepass"))
    for shard in _files(source):
        name = os.path.relpath(shard.path, source.path) if shard.remote is None else shard.path
        total.update(canonical([name, shard.values]).encode("utf-8", "surrogatepass"))
        with open_plain(shard) as opened:
            while block := opened.read(1 << 20):
                total.update(block)
    return total.hexdigest()


_ENDINGS: dict[str, tuple[str, ...]] = {
    "jsonl": JSON_ENDINGS,
    "csv": (".csv", ".tsv", ".tab"),
    "parquet": (".parquet",),
    "beir": (),
}


def _files(source: Source) -> list[Shard]:
    if source.format == "beir":
        return [corpus_file(_path(source))]
    return shards(_path(source), *_ENDINGS[source.format])


def source_fingerprint(source: Source, kind: str) -> str:
    """32 hex digits that name a source for its rejects: where it is, not what it holds.

    `kind` is "documents", "queries", "judgments" or "ranking".
    """
    place = source.path or source.name
    if source.path and source.path != STDIN and "://" not in source.path:
        place = os.path.realpath(source.path)
    return fingerprint({"kind": kind, "format": source.format, "at": place, "split": source.split})
