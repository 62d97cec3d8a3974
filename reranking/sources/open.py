"""Opens a source: documents, queries, judgments or a ranking, in whichever format it comes.

Everything streams. A bad row comes out as a Reject in its place; only what spoils the whole source
(no file, no such column, broken gzip) is raised.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from reranking.errors import ConfigError
from reranking.fingerprints import fingerprint
from reranking.sources import shapes
from reranking.sources.arrow import lance_rows, parquet_rows
from reranking.sources.beir import beir_corpus, beir_qrels, beir_queries
from reranking.sources.delimited import delimited_rows, delimiter_of
from reranking.sources.irdatasets import ir_dataset_rows
from reranking.sources.jsonl import jsonl_rows
from reranking.sources.quepid import quepid_judgments
from reranking.sources.rows import Reject, Row
from reranking.sources.shapes import Shape, shaped
from reranking.sources.trec import QRELS, RUN, trec_rows


@dataclass(frozen=True)
class SourceSpec:
    """Where rows come from: `path` for files and folders, `name` for an ir-datasets id.

    `columns` says which of their columns is ours, as `{"doc_id": "sku", "text": "body"}`.
    """

    format: str
    path: str | None = None
    split: str | None = None
    name: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)

    def need_path(self) -> str:
        """The path; raises ConfigError if there is none."""
        if not self.path:
            raise ConfigError(f"a source of format {self.format!r} needs a path")
        return self.path


Reader = Callable[[SourceSpec, Shape], Iterator[Row | Reject]]


def _csv(spec: SourceSpec, shape: Shape) -> Iterator[Row | Reject]:
    path = spec.need_path()
    delimiter = "\t" if spec.format == "tsv" else delimiter_of(path)
    return delimited_rows(path, delimiter, shape.check)


def _python_docs(spec: SourceSpec, shape: Shape) -> Iterator[Row | Reject]:
    from reranking.sources.python_docs import read_python_docs

    for number, values in enumerate(read_python_docs(), start=1):
        yield Row(number, values)


_TABLES: dict[str, Reader] = {
    "jsonl": lambda spec, shape: jsonl_rows(spec.need_path()),
    "csv": _csv,
    "tsv": _csv,
    "parquet": lambda spec, shape: parquet_rows(spec.need_path(), shape.check),
    "lance": lambda spec, shape: lance_rows(spec.need_path(), shape.check),
}
DOCUMENT_FORMATS: dict[str, Reader] = {
    **_TABLES,
    "beir": lambda spec, shape: beir_corpus(spec.need_path()),
    "ir-datasets": lambda spec, shape: ir_dataset_rows(spec.name, "docs"),
    "python-docs": _python_docs,
}
QUERY_FORMATS: dict[str, Reader] = {
    **_TABLES,
    "beir": lambda spec, shape: beir_queries(spec.need_path(), spec.split, shape),
    "ir-datasets": lambda spec, shape: ir_dataset_rows(spec.name, "queries"),
}
JUDGMENT_FORMATS: dict[str, Reader] = {
    **_TABLES,
    "beir": lambda spec, shape: beir_qrels(spec.need_path(), spec.split, shape),
    "ir-datasets": lambda spec, shape: ir_dataset_rows(spec.name, "qrels"),
    "quepid": lambda spec, shape: quepid_judgments(spec.need_path()),
    "trec": lambda spec, shape: trec_rows(spec.need_path(), QRELS),
}
RANKING_FORMATS: dict[str, Reader] = {
    **_TABLES,
    "ir-datasets": lambda spec, shape: ir_dataset_rows(spec.name, "scoreddocs"),
    "trec": lambda spec, shape: trec_rows(spec.need_path(), RUN),
}


def read_documents(spec: SourceSpec) -> Iterator[Row | Reject]:
    """doc_id, text, and title, vector, parent_id where the source has them; its other columns."""
    return _read(spec, shapes.DOCUMENTS, DOCUMENT_FORMATS)


def read_queries(spec: SourceSpec) -> Iterator[Row | Reject]:
    """query_id, text, and tags, vector where the source has them; its other columns."""
    return _read(spec, shapes.QUERIES, QUERY_FORMATS)


def read_judgments(spec: SourceSpec) -> Iterator[Row | Reject]:
    """query_id, doc_id, relevance (an int, negative ones too) and source where there is one.

    Quepid's exports name no query ids: their rows have query_text instead.
    """
    return _read(spec, shapes.JUDGMENTS, JUDGMENT_FORMATS)


def read_ranking(spec: SourceSpec) -> Iterator[Row | Reject]:
    """query_id, doc_id and score, rank where the source has them; in the order of the source."""
    return _read(spec, shapes.RANKING, RANKING_FORMATS)


def _read(spec: SourceSpec, shape: Shape, formats: Mapping[str, Reader]) -> Iterator[Row | Reject]:
    if spec.format not in formats:
        raise ConfigError(
            f"{shape.kind} cannot be read from format {spec.format!r}: use one of "
            f"{', '.join(sorted(formats))}"
        )
    mapped = shape.mapped(spec.columns)
    rows = formats[spec.format](spec, mapped)
    return rows if spec.format == "quepid" else shaped(rows, mapped)


def source_fingerprint(spec: SourceSpec, kind: str) -> str:
    """32 hex digits that name a source for its rejects: where it is, not what it holds.

    `kind` is "documents", "queries", "judgments" or "ranking".
    """
    place = spec.path or spec.name
    if spec.path and "://" not in spec.path:
        place = os.path.realpath(spec.path)
    return fingerprint({"kind": kind, "format": spec.format, "at": place, "split": spec.split})
