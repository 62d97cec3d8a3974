"""Fuzzing the readers: any bytes give rows, rejects or one of our errors, and no row is lost."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from configs.source import Source
from reranking.errors import RescoreError
from reranking.sources import values as clean
from reranking.sources.delimited import Records
from reranking.sources.files import Shard
from reranking.sources.open import (
    read_documents,
    read_judgments,
    read_queries,
    read_ranking,
)
from reranking.sources.rows import RAW_BYTES, Fault, Reject, Row, cut
from tests.support.sources import source

# tmp_path stays the same for all examples of a test: each writes the same file anew
FUZZ = settings(
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
Read = Callable[[Source], Iterator[Row | Reject]]

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
KEYS = st.sampled_from(["doc_id", "_id", "text", "title", "vector", "tags", "query", "score", "x"])
ALMOST_ROWS = st.dictionaries(KEYS, JSON, max_size=5).map(lambda row: json.dumps(row).encode())
PIECES = st.sampled_from(
    [
        b"\n",
        b"\r\n",
        b"\r",
        b'"',
        b",",
        b"\t",
        b" ",
        b"\xef\xbb\xbf",
        b"\xff",
        b"\0",
        b"{}",
        b"q 0 d 1",
    ]
    + [
        b"query_id,doc_id,text,score\n",
        b"query\tdocid\trating\n",
        b"query,docid,rating\n",
        b"\x1f\x8b",
    ]
)
FILES = st.lists(st.binary(max_size=12) | PIECES | ALMOST_ROWS, max_size=12).map(b"".join)
LINES = st.lists(st.binary(max_size=20) | ALMOST_ROWS | PIECES, max_size=8).map(b"\n".join)


def outcome(read: Read, spec: Source) -> list[Row | Reject] | None:
    """What was read; None if the source as a whole was refused. Anything else fails the test."""
    try:
        rows = list(read(spec))
    except RescoreError:
        return None
    numbers = [row.number for row in rows]
    assert numbers == sorted(numbers)
    for row in rows:
        if isinstance(row, Reject):
            storable(row.reason)
            storable(row.id)
            storable(row.raw)
    return rows


def storable(text: str | None) -> None:
    assert text is None or len(text.encode()) <= max(RAW_BYTES, len(text) * 4)
    pa.array([text], pa.string())


READS: dict[str, list[Read]] = {
    **dict.fromkeys(
        ["jsonl", "csv", "parquet"],
        [read_documents, read_queries, read_judgments, read_ranking],
    ),
    "trec": [read_judgments, read_ranking],
    "quepid": [read_judgments],
}


@pytest.mark.parametrize("form", list(READS))
@FUZZ
@given(data=FILES)
def test_any_bytes_are_survived(form: str, data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "any"
    path.write_bytes(data)
    for read in READS[form]:
        outcome(read, source(form, str(path)))


@FUZZ
@given(corpus=FILES, queries=FILES, qrels=FILES)
def test_any_beir_folder_is_survived(
    corpus: bytes, queries: bytes, qrels: bytes, tmp_path: Path
) -> None:
    (tmp_path / "qrels").mkdir(exist_ok=True)
    (tmp_path / "corpus.jsonl").write_bytes(corpus)
    (tmp_path / "queries.jsonl").write_bytes(queries)
    (tmp_path / "qrels" / "test.tsv").write_bytes(b"query-id\tcorpus-id\tscore\n" + qrels)
    spec = source("beir", str(tmp_path), split="test")
    for read in (read_documents, read_queries, read_judgments):
        outcome(read, spec)


@pytest.mark.parametrize(("read", "form"), [(read_documents, "jsonl"), (read_judgments, "trec")])
@FUZZ
@given(data=LINES)
@example(data=b"\xef\xbb\xbf")
@example(data=b"\xef\xbb\xbf\n{}")
def test_every_line_is_a_row_or_a_reject(
    read: Read, form: str, data: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "any"
    path.write_bytes(data)
    rows = outcome(read, source(form, str(path)))
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    expected = [n for n, line in enumerate(lines, start=1) if line.strip()]
    if rows is None:  # refused as a whole: only what claims to be gzip
        assert data.startswith(b"\x1f\x8b")
    else:
        assert [row.number for row in rows] == expected


@FUZZ
@given(data=LINES, keep=st.integers(0, 200))
def test_gzip_changes_nothing_and_a_cut_one_is_refused(
    data: bytes, keep: int, tmp_path: Path
) -> None:
    plain, packed, short = tmp_path / "a", tmp_path / "a.gz", tmp_path / "b.gz"
    plain.write_bytes(data)
    packed.write_bytes(whole := gzip.compress(data))
    expected = outcome(read_documents, source("jsonl", str(plain)))
    if expected is not None:
        assert outcome(read_documents, source("jsonl", str(packed))) == expected
    short.write_bytes(whole[: min(keep, len(whole) - 1)])
    rows = outcome(read_documents, source("jsonl", str(short)))
    assert rows is None or keep == 0


def good_id(text: str) -> bool:
    return bool(text.strip()) and "\0" not in text


UNICODE = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(good_id)


@FUZZ
@given(rows=st.lists(st.tuples(UNICODE, UNICODE), min_size=1), ascii_only=st.booleans())
def test_jsonl_round_trip(rows: list[tuple[str, str]], ascii_only: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    dumped = [json.dumps({"_id": a, "text": b}, ensure_ascii=ascii_only) for a, b in rows]
    path.write_bytes("\n".join(dumped).encode())
    read = list(read_documents(source("jsonl", str(path))))
    expected = [Row(n, {"doc_id": a, "text": b}) for n, (a, b) in enumerate(rows, start=1)]
    assert read == expected


@pytest.mark.parametrize("form", ["csv", "tsv"])
@FUZZ
@given(rows=st.lists(st.tuples(UNICODE, UNICODE), min_size=1), end=st.sampled_from(["\n", "\r\n"]))
def test_delimited_round_trip(
    form: str, rows: list[tuple[str, str]], end: str, tmp_path: Path
) -> None:
    path = tmp_path / f"x.{form}"
    text = io.StringIO(newline="")
    delimiter = "\t" if form == "tsv" else ","
    quoting = csv.QUOTE_ALL if end == "\n" else csv.QUOTE_MINIMAL
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerows([("doc_id", "text"), *rows])
    path.write_bytes(text.getvalue().encode())
    read = list(read_documents(source("csv", str(path), quoting="csv")))
    for number, (row, (a, b)) in enumerate(zip(read, rows, strict=True), start=1):
        quoted = quoting == csv.QUOTE_ALL or any(c in a for c in f'{delimiter}"\r\n')
        assert row == Row(number, {"doc_id": a if quoted else a.strip(" \t"), "text": b})


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\r\n\0"), min_size=1)


@FUZZ
@given(rows=st.lists(st.tuples(CELLS.filter(good_id), CELLS), min_size=1), form=st.booleans())
def test_what_is_written_without_quotes_comes_back(
    rows: list[tuple[str, str]], form: bool, tmp_path: Path
) -> None:
    """As exports of TSV do; a text that is wholly in quotes loses them with `auto` only."""
    path = tmp_path / "x.tsv"
    path.write_text("doc_id\ttext\n" + "".join(f"{a}\t{b}\n" for a, b in rows), "utf-8", newline="")
    read = list(read_documents(source("csv", str(path), quoting="none" if form else "auto")))
    for row, (a, b) in zip(read, rows, strict=True):
        assert isinstance(row, Row)
        whole = not form and re.fullmatch(r'"(?:[^"]|"")*"', b)
        assert row.values["text"] == (b[1:-1].replace('""', '"') if whole else b)
        if '"' not in a:
            assert row.values["doc_id"] == a.strip(" ")


TABLE_LINES = st.lists(
    st.text(st.sampled_from('ab ",\r'), max_size=9) | st.sampled_from(['a,"b', "a,b", 'c",d', ""]),
    max_size=12,
)


@pytest.mark.parametrize("quoting", ["auto", "csv", "none"])
@pytest.mark.parametrize("delimiter", [",", "\t"])
@FUZZ
@given(given_lines=TABLE_LINES, end=st.sampled_from(["\n", "\r\n"]))
@example(given_lines=['a,"b', "c,d", "", "e,f"], end="\n")
@example(given_lines=['a,"b', "c,d", 'e",f', "g,h"], end="\n")
def test_every_line_of_a_table_belongs_to_one_record(
    delimiter: str, quoting: Literal["auto", "csv", "none"], given_lines: list[str], end: str
) -> None:
    """Each line that is not blank is in exactly one row read or one reject."""
    table = [line.replace(",", delimiter) for line in given_lines]
    data = end.join([f"doc_id{delimiter}text", *table]).encode()
    records = Records(Shard("x", data=data), delimiter, quoting)
    assert records.header() == ["doc_id", "text"]
    covered: Counter[int] = Counter()
    for record in records:
        covered.update(range(record.line, record.line + record.lines))
        assert isinstance(record.fields, str) or len(record.fields) == 2
    assert all(count == 1 for count in covered.values())
    lines = data.split(b"\n")
    assert {n for n, line in enumerate(lines[1:], start=2) if line.strip(b"\r")} <= set(covered)


CLEANERS = [
    clean.identifier,
    clean.optional_identifier,
    clean.text,
    clean.optional_text,
    clean.vector,
    clean.tags,
    clean.grade,
    clean.rank,
    clean.score,
]


@pytest.mark.parametrize("cleaner", CLEANERS)
@FUZZ
@given(value=JSON | st.text() | st.lists(st.floats() | st.integers()))
def test_cleaners_return_or_fault(cleaner: Callable[[str, object], object], value: object) -> None:
    try:
        cleaner("x", value)
    except Fault as fault:
        storable(cut(str(fault)))


@FUZZ
@given(value=st.lists(st.floats() | st.integers(), min_size=1))
def test_a_good_vector_fits_float32(value: list[float]) -> None:
    try:
        found = clean.vector("vector", value)
    except Fault:
        assert any(not math.isfinite(x) or abs(x) > 3.4e38 for x in value)
    else:
        assert found == np.array(value, np.float64).astype(np.float32).tolist()
        assert all(type(x) is float and math.isfinite(x) for x in found or [math.nan])


@FUZZ
@given(raw=st.text() | st.binary())
def test_what_is_kept_of_a_reject_is_short_and_storable(raw: str | bytes) -> None:
    long = raw * 3000
    for one in (raw, long):
        kept = cut(one)
        assert kept is not None
        assert len(kept.encode()) <= RAW_BYTES
