"""Every row of a source is read, rejected or, where nobody answered, left out by rule; once."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reranking.sources.open import read_documents, read_judgments, read_queries
from reranking.sources.rows import Reject, Row
from tests.support.sources import source

FUZZ = settings(
    max_examples=50,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
GOOD = TEXTS.filter(lambda text: bool(text.strip()) and "\0" not in text)
RATINGS = st.sampled_from(["", " ", "0", "3", "2.0", "x", "1e9"])
CELLS = st.none() | TEXTS
ROWS = st.lists(st.fixed_dictionaries({"doc_id": CELLS, "text": CELLS, "own": CELLS}), max_size=8)


def is_good(row: dict[str, Any]) -> bool:
    doc_id, text = row["doc_id"], row["text"]
    named = isinstance(doc_id, str) and bool(doc_id.strip()) and "\0" not in doc_id
    return named and isinstance(text, str) and "\0" not in text


def check(read: list[Row | Reject], given_rows: list[dict[str, Any]]) -> None:
    """Each row stands once, in order; what is good comes back as it was written."""
    assert [row.number for row in read] == list(range(1, len(given_rows) + 1))
    for row, written in zip(read, given_rows, strict=True):
        assert isinstance(row, Row) == is_good(written)
        if isinstance(row, Row):
            assert row.values == written


@FUZZ
@given(rows=ROWS)
def test_rows_of_parquet_and_lance(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    schema = pa.schema([(name, pa.string()) for name in ("doc_id", "text", "own")])
    table = pa.Table.from_pylist(rows, schema)
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=3)
    check(list(read_documents(source("parquet", str(tmp_path / "x.parquet")))), rows)
    if rows:
        lancedb.connect(tmp_path / "db").create_table("t", table, mode="overwrite")
        check(list(read_documents(source("lance", str(tmp_path / "db" / "t")))), rows)


@FUZZ
@given(rows=ROWS.filter(bool), indent=st.sampled_from([None, 0, 2]), array=st.booleans())
def test_objects_of_json(
    rows: list[dict[str, Any]], indent: int | None, array: bool, tmp_path: Path
) -> None:
    """An array, or objects one after the other, on one line or on many."""
    path = tmp_path / "x.json"
    ascii_only = len(rows) % 2 == 0
    if array:
        path.write_text(json.dumps(rows, indent=indent, ensure_ascii=ascii_only), "utf-8")
    else:
        dumped = [json.dumps(row, indent=indent, ensure_ascii=ascii_only) for row in rows]
        path.write_text("\n".join(dumped), "utf-8", newline="")
    read = list(read_documents(source("jsonl", str(path))))
    if array or indent is not None:
        assert len(read) == len(rows)
    check([_numbered(row, n) for n, row in enumerate(read, start=1)], rows)


def _numbered(row: Row | Reject, number: int) -> Row | Reject:
    """By its place: objects over several lines are counted, or numbered by a line of theirs."""
    if isinstance(row, Row):
        return Row(number, row.values)
    return Reject(number, row.id, row.reason, row.raw)


@FUZZ
@given(rows=st.lists(st.tuples(GOOD, GOOD)), split=st.sampled_from([None, "test"]))
def test_rows_of_a_beir_folder(
    rows: list[tuple[str, str]], split: str | None, tmp_path: Path
) -> None:
    (tmp_path / "qrels").mkdir(exist_ok=True)
    lines = [json.dumps({"_id": one, "text": text}) for one, text in rows]
    (tmp_path / "queries.jsonl").write_text("\n".join(lines))
    judged = sorted(
        {one for one, _ in rows if not set(one) & set('\t\r\n"') and one == one.strip()}
    )
    qrels = "query-id\tcorpus-id\tscore\n" + "".join(f"{one}\td\t1\n" for one in judged)
    (tmp_path / "qrels" / "test.tsv").write_text(qrels, "utf-8", newline="")
    read = list(read_queries(source("beir", str(tmp_path), split=split)))
    wanted = [(one, text) for one, text in rows if split is None or one in judged]
    assert [(r.values["query_id"], r.values["text"]) for r in read if isinstance(r, Row)] == wanted


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@FUZZ
@given(
    rows=st.lists(st.tuples(GOOD, GOOD, st.sampled_from(["", " ", "0", "3", "2.0", "x", "1e9"])))
)
def test_lines_of_a_quepid_export(
    rows: list[tuple[str, str, str]], end: str, tmp_path: Path
) -> None:
    """An empty rating is no answer; every other line is one row or one reject."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("query", "docid", "rating"), *rows])
    path = tmp_path / "x.csv"
    path.write_bytes(text.getvalue().encode())
    read = list(read_judgments(source("quepid", str(path))))
    answered = [n for n, row in enumerate(rows, start=1) if row[2].strip()]
    assert [row.number for row in read] == answered
    for row in read:
        assert isinstance(row, Row) == (rows[row.number - 1][2] in ("0", "3", "2.0"))
