"""Bounded bytes: what is held, committed, read and indexed at once, however long the texts are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lancedb.expr import col, lit

from configs.documents import Documents
from reranking import reading
from reranking.arrow import row_bytes, spans
from reranking.corpus import weights
from reranking.corpus.ingest import ingest
from reranking.corpus.weights import LongestTexts
from reranking.errors import InputError
from reranking.sources.rows import Reject, Row
from reranking.store import Database


class Encoder:
    """A vector of one number."""

    fingerprint = "e"
    dimension = 1

    def encode_documents(self, texts: list[str]) -> np.ndarray:
        return np.ones((len(texts), 1), np.float32)


def documents(count: int, size: int) -> list[Row | Reject]:
    return [
        Row(n, {"doc_id": f"d{n}", "text": f"{n} " + "x" * size, "own": {"body": "y" * size}})
        for n in range(1, count + 1)
    ]


def taken_in(database: Database, rows: list[Row | Reject], **settings: Any) -> None:
    ingest(database, lambda: iter(rows), Encoder(), Documents(**settings), source_fp="s")


@given(st.lists(st.integers(0, 30)), st.integers(1, 40))
def test_spans_hold_every_row_once_and_no_more_than_the_limit(sizes: list[int], most: int) -> None:
    cut = list(spans(sizes, most))
    assert [n for start, end in cut for n in range(start, end)] == list(range(len(sizes)))
    assert all(end - start == 1 or sum(sizes[start:end]) <= most for start, end in cut)
    longer = [sum(sizes[start : end + 1]) > most for start, end in cut[:-1]]
    assert all(longer)


VALUES = st.fixed_dictionaries(
    {
        "text": st.none() | st.text(max_size=5),
        "tags": st.none() | st.lists(st.none() | st.text(max_size=3), max_size=3),
        "meta": st.none()
        | st.fixed_dictionaries(
            {"body": st.none() | st.text(max_size=4), "more": st.lists(st.text(max_size=2))}
        ),
    }
)
KINDS = pa.schema(
    [
        ("text", pa.string()),
        ("tags", pa.list_(pa.string())),
        ("meta", pa.struct([("body", pa.string()), ("more", pa.list_(pa.string()))])),
    ]
)


def _size(value: object) -> int:
    if isinstance(value, str):
        return len(value.encode())
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return sum(_size(one) for one in inner)


@given(st.lists(VALUES, max_size=5))
def test_the_bytes_of_nested_texts_are_counted(rows: list[dict[str, Any]]) -> None:
    given_rows = pl.DataFrame(pa.Table.from_pylist(rows, KINDS))
    assert row_bytes(given_rows) == [_size(row) for row in rows]


def test_commits_and_windows_are_bounded_by_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Own columns count as well; no clock decides, since nothing here takes 30 seconds."""
    monkeypatch.setattr("reranking.arrow.BATCH_BYTES", 1000)
    database = Database(str(tmp_path / "db"))
    merged: list[int] = []
    original = Database.merge

    def counted(self: Database, name: str, rows: pa.Table, *more: Any, **options: Any) -> None:
        merged.append(rows.num_rows if name == "documents" else 0)
        original(self, name, rows, *more, **options)

    monkeypatch.setattr(Database, "merge", counted)
    taken_in(database, documents(20, 100))
    assert database.need("documents").count_rows() == sum(merged) == 20
    assert max(merged) == 4
    assert [len(w) for w in weights.windows(iter(documents(20, 100)), 50)] == [5, 5, 5, 5]
    assert [len(w) for w in weights.windows(iter(documents(5, 5000)), 50)] == [1] * 5


def test_what_lancedb_cannot_index_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tried for real: 9,000 texts of 300 KB in one fragment end its index with an overflow."""
    database = Database(str(tmp_path / "db"))
    monkeypatch.setattr(weights, "_MOST", 1000)
    with pytest.raises(InputError, match="LANCE_DEFAULT_BATCH_SIZE=4 for rescore"):
        taken_in(database, documents(20, 100))
    assert database.names() == []
    monkeypatch.setenv("LANCE_DEFAULT_BATCH_SIZE", "4")
    taken_in(database, documents(20, 100))
    assert database.need("documents").count_rows() == 20


@given(st.lists(st.text(max_size=4), max_size=12), st.integers(1, 5))
def test_the_longest_texts_are_the_ones_that_count(texts: list[str], rows: int) -> None:
    longest = LongestTexts()
    longest.rows = rows
    for text in texts:
        longest.see(text)
    sizes = sorted((len(text.encode()) for text in texts), reverse=True)
    assert sorted(longest._sizes, reverse=True) == sizes[:rows]


class Choking:
    """A query that holds no more than 7 rows at once, and says so after a batch, as LanceDB does"""

    def __init__(self, query: Any) -> None:
        self.query = query

    def with_row_id(self, wanted: bool) -> Choking:
        return Choking(self.query.with_row_id(wanted))

    def offset(self, rows: int) -> Choking:
        return Choking(self.query.offset(rows))

    def to_batches(self, rows: int) -> Iterator[pa.RecordBatch]:
        for number, batch in enumerate(self.query.to_batches(min(rows, 5))):
            if number and rows > 7:
                raise RuntimeError("lance error: LanceError(Arrow): Offset overflow error: 2150288")
            yield batch


def test_a_table_is_read_on_in_smaller_parts_where_its_texts_are_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(str(tmp_path / "db"))
    taken_in(database, documents(50, 10))
    monkeypatch.setattr(reading, "query", lambda *given: Choking(_query(*given)))
    for where in (None, col("doc_id") != lit("d7")):
        read = [
            one
            for batch in database.stream("documents", where, ["doc_id", "text"])
            for one in batch.column("doc_id").to_pylist()
        ]
        assert sorted(read) == sorted(f"d{n}" for n in range(1, 51) if where is None or n != 7)


_query = reading.query
