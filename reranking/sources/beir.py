"""BEIR folders: corpus.jsonl, queries.jsonl and qrels/{split}.tsv, each perhaps packed.

As BEIR's own loader does, a split restricts the queries to those that it has judgments for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from reranking.errors import ConfigError, MissingResource
from reranking.sources.delimited import delimited_rows
from reranking.sources.files import CODECS, Shard, folder, names_in, regular_file
from reranking.sources.jsonl import jsonl_rows
from reranking.sources.rows import Reject, Row
from reranking.sources.shapes import JUDGMENTS, Shape, shaped


def beir_corpus(path: str) -> Iterator[Row | Reject]:
    """The documents of the folder."""
    return jsonl_rows(corpus_file(path))


def corpus_file(path: str) -> Shard:
    """The file of the folder's documents."""
    return _part(path, "corpus.jsonl")


def beir_queries(path: str, split: str | None, shape: Shape) -> Iterator[Row | Reject]:
    """The queries of the folder, or of one split of it; a row without a good id is not left out."""
    rows = jsonl_rows(_part(path, "queries.jsonl"))
    return rows if split is None else _judged(rows, path, split, shape)


def _judged(
    rows: Iterator[Row | Reject], path: str, split: str, shape: Shape
) -> Iterator[Row | Reject]:
    qrels = shaped(beir_qrels(path, split, JUDGMENTS), JUDGMENTS)
    judged = {row.values["query_id"] for row in qrels if isinstance(row, Row)}
    for row in rows:
        query_id = shape.row_id(row.values) if isinstance(row, Row) else None
        if query_id is None or query_id in judged:
            yield row


def beir_qrels(path: str, split: str | None, shape: Shape) -> Iterator[Row | Reject]:
    """The judgments of one split."""
    if split is None:
        raise ConfigError(f"{path}: a BEIR folder's judgments need a split: {_splits(path)}")
    try:
        file = _part(path, f"qrels/{split}.tsv")
    except MissingResource as error:
        raise MissingResource(f"{path} has no split {split!r}: {_splits(path)}") from error
    return delimited_rows(file, "\t", shape)


def _splits(path: str) -> str:
    files = names_in(Path(path, "qrels"))
    splits = sorted({name.split(".tsv")[0] for name in files if ".tsv" in name})
    return f"it has {', '.join(splits)}" if splits else "it has none under qrels/"


def _part(path: str, name: str) -> Shard:
    root = folder(path)
    for codec in ("", *CODECS):
        file = root / f"{name}{codec}"
        if os.path.lexists(file):
            return Shard(str(regular_file(file)))
    raise MissingResource(
        f"{path} has no {name}, which a BEIR folder has; found {names_in(root)[:10]}"
    )
