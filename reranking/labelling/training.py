"""Training data from mined negatives, in sentence-transformers' formats.

Its trainers read every column that is not called label, labels, score or scores as a model input,
by order. So a data file holds texts and labels only; ids, hashes and scores stand in a parallel
file of the same row order, in a folder that `datasets.load_dataset` passes over (its name starts
with two underscores).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from reranking.arrow import spans
from reranking.errors import ConfigError, InputError
from reranking.files import whole_file
from reranking.fingerprints import digest
from reranking.labelling.mining import Mined

OutputFormat = Literal["triplet", "n-tuple", "labeled-pair", "labeled-list"]
FileFormat = Literal["parquet", "jsonl"]
PROVENANCE_FOLDER = "__provenance__"

PROVENANCE = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("query_hash", pa.binary(16)),
        pa.field("doc_ids", pa.list_(pa.string()), nullable=False),
        pa.field("doc_hashes", pa.list_(pa.binary(16))),
        pa.field("scores", pa.list_(pa.float32())),
        pa.field("sources", pa.list_(pa.string()), nullable=False),
    ]
)
"""One row per example; the lists follow the documents' order in the example. A source is
`positive`, `mined`, or `judged` for a negative that people judged non-relevant."""


@dataclass(frozen=True)
class Examples:
    """Training rows and, row by row, where they come from; `skipped` lacked a score or negatives"""

    data: pa.Table
    provenance: pa.Table
    skipped: int


@dataclass(frozen=True)
class _Document:
    doc_id: str
    doc_hash: bytes | None
    score: float | None
    source: str


@dataclass(frozen=True)
class _Example:
    query_id: str
    query_hash: bytes | None
    documents: tuple[_Document, ...]


def examples(
    mined: Mined,
    output_format: OutputFormat,
    *,
    num_negatives: int,
    queries: Mapping[str, str],
    documents: Mapping[str, str],
    output_scores: bool = False,
) -> Examples:
    """The block's training rows, equal to those of `mine_hard_negatives` for the same negatives.

    triplet: query, positive, negative. n-tuple: query, positive, negative_1 .. negative_n, only for
    queries that have all n. labeled-pair: query, document, label. labeled-list: query, docs,
    labels. With `output_scores` the raw logits stand in `scores` (pairs: `score`) in place of
    labels, for distillation; rows whose positive was never scored are then skipped. `queries` and
    `documents` give the texts by id; InputError where one is missing.
    """
    if output_format not in get_args(OutputFormat):
        expected = ", ".join(get_args(OutputFormat))
        raise ConfigError(f"output format {output_format!r} is unknown; expected one of {expected}")
    rows = list(_rows(mined, output_format))
    wanted = num_negatives + 1 if output_format == "n-tuple" else 0
    kept = [
        row
        for row in rows
        if len(row.documents) >= wanted
        and not (output_scores and any(d.score is None for d in row.documents))
    ]
    # characters: four times as many bytes still fit into one Arrow array
    sizes = [sum(len(documents.get(d.doc_id, "")) for d in row.documents) for row in kept]
    parts = [
        _data(kept[start:end], output_format, num_negatives, output_scores, queries, documents)
        for start, end in list(spans(sizes)) or [(0, 0)]
    ]
    return Examples(pa.concat_tables(parts), _provenance(kept), len(rows) - len(kept))


def _rows(mined: Mined, output_format: OutputFormat) -> Iterator[_Example]:
    """The examples of a format, in the order of the positives."""
    negatives: dict[str, list[_Document]] = {}
    for row in mined.negatives.to_pylist():
        source = "judged" if row["verified"] else "mined"
        document = _Document(row["doc_id"], row["doc_hash"], row["score"], source)
        negatives.setdefault(row["query_id"], []).append(document)
    done: set[str] = set()
    for row in mined.positives.to_pylist():
        query, opposites = row["query_id"], negatives.get(row["query_id"], [])
        head = query, row["query_hash"]
        positive = _Document(row["doc_id"], row["doc_hash"], row["score"], "positive")
        if output_format == "triplet":
            yield from (_Example(*head, (positive, one)) for one in opposites)
        elif output_format == "labeled-pair":
            yield _Example(*head, (positive,))
            if query not in done:  # a query's negatives once, however many positives it has
                yield from (_Example(*head, (one,)) for one in opposites)
        elif opposites:
            yield _Example(*head, (positive, *opposites))
        done.add(query)


def _data(
    rows: Sequence[_Example],
    output_format: OutputFormat,
    num_negatives: int,
    output_scores: bool,
    queries: Mapping[str, str],
    documents: Mapping[str, str],
) -> pa.Table:
    try:
        asked = [queries[row.query_id] for row in rows]
        texts = [[documents[d.doc_id] for d in row.documents] for row in rows]
    except KeyError as error:
        raise InputError(f"there is no text for the query or document {error}") from error
    scores = [[d.score for d in row.documents] for row in rows]
    labels = [[int(d.source == "positive") for d in row.documents] for row in rows]
    columns: dict[str, pa.Array] = {"query": pa.array(asked, pa.string())}
    if output_format == "labeled-list":
        columns["docs"] = pa.array(texts, pa.list_(pa.string()))
    else:
        names = {"triplet": ["positive", "negative"], "labeled-pair": ["document"]}.get(
            output_format, ["positive", *(f"negative_{n + 1}" for n in range(num_negatives))]
        )
        for place, name in enumerate(names):
            columns[name] = pa.array([row[place] for row in texts], pa.string())
    if output_format == "labeled-pair":
        one = [row[0] for row in scores] if output_scores else [row[0] for row in labels]
        kind = pa.float32() if output_scores else pa.int32()
        columns["score" if output_scores else "label"] = pa.array(one, kind)
    elif output_scores:
        columns["scores"] = pa.array(scores, pa.list_(pa.float32()))
    elif output_format == "labeled-list":
        columns["labels"] = pa.array(labels, pa.list_(pa.int32()))
    return pa.table(columns)


def _provenance(rows: Sequence[_Example]) -> pa.Table:  # PROVENANCE
    listed = [
        {
            "query_id": row.query_id,
            "query_hash": row.query_hash,
            "doc_ids": [d.doc_id for d in row.documents],
            "doc_hashes": [d.doc_hash for d in row.documents],
            "scores": [d.score for d in row.documents],
            "sources": [d.source for d in row.documents],
        }
        for row in rows
    ]
    return pa.Table.from_pylist(listed, PROVENANCE)


def assign_splits(
    positives: pa.Table,
    queries: Mapping[str, str],
    shares: Mapping[str, float],
    *,
    seed: int = 0,
) -> dict[str, str]:
    """The split of each query, such as {"train": 0.9, "dev": 0.1}, decided by hash.

    Queries of the same text (case and white space aside) and queries that share a positive
    document, by id or by text, always fall into one split: a model must not meet a test query, nor
    the answer to one, in training. Negatives may appear on both sides; they are the corpus.
    A large group of queries with common positives moves as one, so shares are met only roughly;
    raises InputError if nearly all queries are one group. No split with a share stays empty.
    """
    if not shares or abs(sum(shares.values()) - 1) > 1e-9 or min(shares.values()) < 0:
        raise ConfigError(f"shares of splits are {dict(shares)}; they must add up to 1")
    from scipy.cluster.hierarchy import DisjointSet

    names = sorted(set(positives.column("query_id").to_pylist()))
    groups: Any = DisjointSet(("query", name) for name in names)
    for row in positives.to_pylist():
        shared = [("text", _normalised(queries[row["query_id"]])), ("doc", row["doc_id"])]
        if row["doc_hash"] is not None:
            shared.append(("hash", row["doc_hash"].hex()))
        for node in shared:
            groups.add(node)
            groups.merge(("query", row["query_id"]), node)
    members: dict[tuple[str, str], list[str]] = {}
    for name in names:
        members.setdefault(groups[("query", name)], []).append(name)
    _check_divisible(members.values(), shares, len(names))
    keys = {tuple(group): _key(group, queries, seed) for group in members.values()}
    chosen = {group: _pick(key, shares) for group, key in keys.items()}
    for split in (name for name, share in shares.items() if share > 0):
        if split not in chosen.values():  # a small set: the smallest group of the largest split
            largest = Counter(chosen.values()).most_common(1)[0][0]
            spare = [group for group in chosen if chosen[group] == largest]
            chosen[min(spare, key=lambda group: (len(group), keys[group]))] = split
    return {name: split for group, split in chosen.items() for name in group}


def _check_divisible(
    groups: Collection[Sequence[str]], shares: Mapping[str, float], queries: int
) -> None:
    """Raise InputError if so many queries hang together that a split would stay nearly empty."""
    wanted = [share for share in shares.values() if share > 0]
    if not queries or len(wanted) < 2:
        return
    largest = max(len(group) for group in groups)
    if len(groups) < len(wanted) or (queries - largest) / queries < min(wanted) / 2:
        raise InputError(
            f"{largest} of {queries} queries hang together, because they share positive documents, "
            f"so splits of {dict(shares)} cannot be made without an answer on both sides: use "
            "positives: judgments, a label set with a stricter rule (top_n: 1), or one split"
        )


def _key(group: Sequence[str], queries: Mapping[str, str], seed: int) -> bytes:
    """What decides a group's split; the same whatever the queries are called."""
    texts = (f"{seed}\0{_normalised(queries[query])}" for query in group)
    # the least of many hashes is small: hash it again, or large groups would prefer one split
    return digest(min(digest(text.encode("utf-8", "surrogatepass")) for text in texts))


def _normalised(text: str) -> str:
    return " ".join(text.casefold().split())


def _pick(key: bytes, shares: Mapping[str, float]) -> str:
    place, reached = int.from_bytes(key[:8], "big") / 2**64, 0.0
    for name, share in shares.items():
        reached += share
        if place < reached:
            return name
    return list(shares)[-1]


def of_split(mined: Mined, splits: Mapping[str, str], name: str) -> Mined:
    """The part of a block whose queries are in the split `name`."""

    def part(table: pa.Table) -> pa.Table:
        inside = [splits.get(query) == name for query in table.column("query_id").to_pylist()]
        return table.filter(pa.array(inside, pa.bool_()))

    return Mined(part(mined.positives), part(mined.negatives))


class TrainingWriter:
    """Writes SPLIT.parquet or SPLIT.jsonl and __provenance__/SPLIT.parquet into a folder.

    Used as a context manager: the files get their names only when the block ends without an error.
    """

    def __init__(
        self, folder: Path, file_format: FileFormat, provenance: Mapping[str, str]
    ) -> None:
        """`provenance` (runs, rule, calibration ...) goes into the parallel files' metadata."""
        self._folder = folder
        self._format = file_format
        self._marks = {f"rescore.{k}".encode(): v.encode() for k, v in provenance.items()}
        self._files = ExitStack()
        self._open: dict[Path, Any] = {}
        (folder / PROVENANCE_FOLDER).mkdir(parents=True, exist_ok=True)

    def write(self, split: str, rows: Examples) -> None:
        """Append a block's examples to a split."""
        if not split.isidentifier():
            raise ConfigError(f"split {split!r} is not a plain name such as train or test")
        if not rows.data.num_rows:
            return
        beside = rows.provenance.replace_schema_metadata(self._marks)
        self._write(self._folder / f"{split}.{self._format}", rows.data)
        self._write(self._folder / PROVENANCE_FOLDER / f"{split}.parquet", beside)

    def _write(self, path: Path, table: pa.Table) -> None:
        if path not in self._open:
            file = self._files.enter_context(whole_file(path))
            if path.suffix == ".parquet":
                self._open[path] = self._files.enter_context(pq.ParquetWriter(file, table.schema))
            else:
                self._open[path] = file
        for batch in table.to_batches():  # a row group each, which readers hold as one array
            if path.suffix == ".parquet":
                self._open[path].write_batch(batch)
            else:
                for row in batch.to_pylist():
                    self._open[path].write((json.dumps(row, ensure_ascii=False) + "\n").encode())

    def __enter__(self) -> TrainingWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._files.__exit__(kind, error, trace)
