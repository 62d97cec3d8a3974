"""Readers: every format yields the same rows, and bad rows come out as rejects in their place."""

from __future__ import annotations

import csv
import gzip
import json
import os
import sys
from collections import namedtuple
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from pyarrow import parquet

from reranking.errors import (
    ConfigError,
    InputError,
    MissingPrerequisite,
    MissingResource,
)
from reranking.sources import arrow, files
from reranking.sources.open import (
    SourceSpec,
    read_documents,
    read_judgments,
    read_queries,
    read_ranking,
    source_fingerprint,
)
from reranking.sources.rows import Reject, Row

DOCS = [
    {"doc_id": "a", "title": "One", "text": "first text", "shelf": "x"},
    {"doc_id": "b", "title": "Two", "text": 'zwei, mit "Zitat"\nund Zeile', "shelf": "y"},
]


def values(rows: Iterable[Row | Reject]) -> list[dict[str, object]]:
    found = list(rows)
    assert [row for row in found if isinstance(row, Reject)] == []
    return [row.values for row in found if isinstance(row, Row)]


def reasons(rows: Iterable[Row | Reject]) -> dict[int, str]:
    return {row.number: row.reason for row in rows if isinstance(row, Reject)}


def write(path: Path, data: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = data.encode() if isinstance(data, str) else data
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def jsonl(path: Path, rows: Iterable[object]) -> str:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def delimited(path: Path, rows: list[dict[str, str]], delimiter: str) -> str:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def lance(path: Path, rows: list[dict[str, object]]) -> str:
    import lancedb

    lancedb.connect(path.parent).create_table(path.name, pa.Table.from_pylist(rows))
    return str(path)


def table_of(form: str, folder: Path, rows: list[dict[str, str]]) -> SourceSpec:
    match form:
        case "jsonl":
            path = jsonl(folder / "rows.jsonl", rows)
        case "jsonl.gz":
            form, path = "jsonl", jsonl(folder / "rows.jsonl.gz", rows)
        case "csv":
            path = delimited(folder / "rows.csv", rows, ",")
        case "tsv":
            path = delimited(folder / "rows.txt", rows, "\t")
        case "parquet":
            parquet.write_table(pa.Table.from_pylist(rows), path := str(folder / "rows.parquet"))
        case _:
            path = lance(folder / "rows", list(map(dict, rows)))
    return SourceSpec(form, path)


FORMS = ["jsonl", "jsonl.gz", "csv", "tsv", "parquet", "lance"]


# Every format, the same rows -------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_formats_agree_on_documents(form: str, tmp_path: Path) -> None:
    rows = list(read_documents(table_of(form, tmp_path, DOCS)))
    assert rows == [Row(1, dict(DOCS[0])), Row(2, dict(DOCS[1]))]


@pytest.mark.parametrize("form", FORMS)
def test_columns_are_mapped(form: str, tmp_path: Path) -> None:
    theirs = [{"sku": "s1", "body": "b", "doc_id": "other", "maker": "m"}]
    spec = table_of(form, tmp_path, theirs)
    columns = {"doc_id": "sku", "text": "body", "brand": "maker"}
    spec = SourceSpec(spec.format, spec.path, columns=columns)
    assert values(read_documents(spec)) == [{"doc_id": "s1", "text": "b", "brand": "m"}]


@pytest.mark.parametrize(
    "names",
    [
        ("query_id", "doc_id", "relevance"),
        ("query-id", "corpus-id", "score"),
        ("qid", "docno", "label"),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_judgments_are_read_in_three_spellings(
    form: str, names: tuple[str, str, str], tmp_path: Path
) -> None:
    rows = [dict(zip(names, row, strict=True)) for row in [("q", "d", "2"), ("q", "e", "-1")]]
    assert values(read_judgments(table_of(form, tmp_path, rows))) == [
        {"query_id": "q", "doc_id": "d", "relevance": 2},
        {"query_id": "q", "doc_id": "e", "relevance": -1},
    ]


@pytest.mark.parametrize("form", [form for form in FORMS if not form.startswith("jsonl")])
def test_a_missing_column_is_an_error_at_once(form: str, tmp_path: Path) -> None:
    spec = table_of(form, tmp_path, [{"sku": "s1", "text": "b"}])
    with pytest.raises(InputError, match=r"no column for doc_id.*'doc_id' or '_id'.*sku"):
        list(read_documents(spec))
    asked = SourceSpec(spec.format, spec.path, columns={"doc_id": "sku", "title": "headline"})
    with pytest.raises(InputError, match="no column for title: looked for 'headline'"):
        list(read_documents(asked))


def test_queries_keep_tags_vectors_and_metadata(tmp_path: Path) -> None:
    row = {"_id": 7, "text": "q", "tags": ["t"], "vector": [1, 0.5], "metadata": {"a": [1]}}
    alone = {"qid": "8", "query": "r", "tags": "one"}
    path = jsonl(tmp_path / "q.jsonl", [row, alone])
    assert values(read_queries(SourceSpec("jsonl", path))) == [
        {"query_id": "7", "text": "q", "tags": ["t"], "vector": [1, 0.5], "metadata": {"a": [1]}},
        {"query_id": "8", "text": "r", "tags": ["one"]},
    ]


# BEIR ------------------------------------------------------------------------------------------


def beir(folder: Path, suffix: str = "") -> SourceSpec:
    corpus = [{"_id": "d1", "title": "T", "text": "x", "metadata": {}}]
    jsonl(folder / f"corpus.jsonl{suffix}", corpus)
    queries = [{"_id": n, "text": f"query {n}"} for n in ("q1", "q2", "q3")]
    jsonl(folder / f"queries.jsonl{suffix}", [*queries[:2], {"text": "no id"}, queries[2]])
    write(folder / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\nq3\td1\t0\nq1\td1\t1\n")
    return SourceSpec("beir", str(folder), split="test")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_beir_split_restricts_queries_to_judged_ones(suffix: str, tmp_path: Path) -> None:
    spec = beir(tmp_path, suffix)
    assert values(read_documents(spec)) == [
        {"doc_id": "d1", "title": "T", "text": "x", "metadata": {}}
    ]
    rows = list(read_queries(spec))
    assert [row.values["query_id"] for row in rows if isinstance(row, Row)] == ["q1", "q3"]
    assert reasons(rows) == {3: "no query_id: the row has no 'query_id' or '_id' or 'qid' or 'id'"}
    every = read_queries(SourceSpec("beir", spec.path))
    assert sum(isinstance(row, Row) for row in every) == 3
    assert [row["relevance"] for row in values(read_judgments(spec))] == [0, 1]


def test_beir_says_what_is_missing(tmp_path: Path) -> None:
    path = beir(tmp_path).path
    with pytest.raises(ConfigError, match="need a split: it has test"):
        list(read_judgments(SourceSpec("beir", path)))
    with pytest.raises(MissingResource, match="no split 'dev': it has test"):
        list(read_judgments(SourceSpec("beir", path, split="dev")))
    with pytest.raises(ConfigError, match="expected a name"):
        list(read_judgments(SourceSpec("beir", path, split="../qrels/test")))
    write(tmp_path / "qrels" / "bare.tsv", "q1\td1\t1\n")
    with pytest.raises(InputError, match="no column for query_id"):
        list(read_judgments(SourceSpec("beir", path, split="bare")))
    with pytest.raises(MissingResource, match="has no corpus.jsonl"):
        list(read_documents(SourceSpec("beir", str(tmp_path / "qrels"))))
    with pytest.raises(InputError, match="is a file, expected a folder"):
        list(read_documents(SourceSpec("beir", str(tmp_path / "corpus.jsonl"))))


SCIFACT = Path(__file__).parents[2] / "shared" / "data" / "scifact"


@pytest.mark.skipif(not SCIFACT.exists(), reason="needs ../shared/data/scifact")
def test_scifact_has_its_published_size() -> None:
    spec = SourceSpec("beir", str(SCIFACT), split="test")
    counts = [len(values(read(spec))) for read in (read_documents, read_queries, read_judgments)]
    assert counts == [5183, 300, 339]


# Bad rows --------------------------------------------------------------------------------------

GOOD = b'{"doc_id": "z", "text": "fine"}'

BAD_LINES: dict[bytes, str] = {
    b'{"text": "x"}': "no doc_id",
    b'{"doc_id": null, "text": "x"}': "no doc_id",
    b'{"doc_id": " \\t ", "text": "x"}': "no doc_id: it is empty",
    b'{"doc_id": 1.5, "text": "x"}': "doc_id is a float",
    b'{"doc_id": NaN, "text": "x"}': "doc_id is a float",
    b'{"doc_id": true, "text": "x"}': "doc_id is a boolean",
    b'{"doc_id": ["a"], "text": "x"}': "doc_id is a list",
    b'{"doc_id": "a\\u0000b", "text": "x"}': "doc_id contains a NUL",
    b'{"doc_id": "a"}': "no text: the row has no 'text'",
    b'{"doc_id": "a", "text": null}': "no text",
    b'{"doc_id": "a", "text": ""}': "text is empty",
    b'{"doc_id": "a", "text": "\\u00a0\\n"}': "text is empty",
    b'{"doc_id": "a", "text": 3}': "text is an int",
    b'{"doc_id": "a", "text": {"de": "x"}}': "text is an object",
    b'{"doc_id": "a", "text": "x\\u0000"}': "text contains a NUL",
    b'{"doc_id": "a", "text": "x\\ud83d"}': "a lone surrogate",
    b'{"doc_id": "a", "text": "x", "note": ["\\uD83D"]}': "a lone surrogate",
    b'{"doc_id": "a", "text": "x", "title": 5}': "title is an int",
    b'{"doc_id": "a", "text": "\xff"}': "invalid UTF-8 at byte 26",
    b'{"doc_id": "a", "text": "x"': "broken JSON: Expecting ',' delimiter",
    b'{"doc_id": "a", "text": "x"} {}': "broken JSON: Extra data",
    b'["a", "x"]': "the line is a JSON array",
    b"null": "the line is a JSON null",
    b"[" * 100_000: "broken JSON: nested too deeply",
    b'{"doc_id": ' + b"9" * 5000 + b', "text": "x"}': "broken JSON: Exceeds the limit",
    b'{"doc_id": "a", "text": "x", "vector": [1, NaN]}': "vector holds NaN",
    b'{"doc_id": "a", "text": "x", "vector": [1e300]}': "vector holds NaN, an infinity, or",
    b'{"doc_id": "a", "text": "x", "vector": [1' + b"0" * 400 + b"]}": "beyond float32",
    b'{"doc_id": "a", "text": "x", "vector": [1, "2"]}': "vector holds something other",
    b'{"doc_id": "a", "text": "x", "vector": [true]}': "vector holds something other",
    b'{"doc_id": "a", "text": "x", "vector": []}': "vector is a list, expected a list of num",
    b'{"doc_id": "a", "text": "x", "vector": 1.5}': "vector is a float",
    b'{"doc_id": "a", "text": "x", "vector": "[1,"}': "vector is a string that is no JSON",
}


def test_each_bad_line_is_a_reject_in_its_place(tmp_path: Path) -> None:
    data = b"".join(GOOD + b"\n" + bad + b"\n" for bad in BAD_LINES)
    rows = list(read_documents(SourceSpec("jsonl", write(tmp_path / "d.jsonl", data))))
    assert [row.number for row in rows] == list(range(1, 2 * len(BAD_LINES) + 1))
    assert all(isinstance(row, Row) for row in rows[::2])
    for row, (line, reason) in zip(rows[1::2], BAD_LINES.items(), strict=True):
        assert isinstance(row, Reject), line
        assert reason in row.reason, line
        assert row.raw is not None
        assert row.raw.startswith(line[:20].decode())
        assert len(row.raw.encode()) <= 2048
    known = [row.id for row in rows[1::2] if isinstance(row, Reject)]
    assert known[:8] == [None] * 8
    assert known[8] == "a"


def test_integers_are_ids_and_ids_may_hold_anything_printable(tmp_path: Path) -> None:
    ids: list[object] = [7, 2**70, "a b", "it's", 'x"y', "line\nbreak", "'; DROP TABLE x; --", "🦊"]
    path = jsonl(tmp_path / "d.jsonl", [{"doc_id": one, "text": "x"} for one in ids])
    found = [row["doc_id"] for row in values(read_documents(SourceSpec("jsonl", path)))]
    assert found == [str(one) for one in ids]


@pytest.mark.parametrize(
    ("grade", "expected"),
    [(2, 2), (0, 0), (-1, -1), (3.0, 3), ("2", 2), (" 1 ", 1), ("3.0", 3), ("-2", -2), ("+1", 1)],
)
def test_whole_grades(grade: object, expected: int, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "j.jsonl", [{"query_id": "q", "doc_id": "d", "relevance": grade}])
    assert values(read_judgments(SourceSpec("jsonl", path)))[0]["relevance"] == expected


@pytest.mark.parametrize(
    "grade", [1.5, "1.5", True, None, "", "high", "1_0", "٣", [1], float("nan"), 2**31, "9" * 30]
)
def test_grades_that_are_none(grade: object, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "j.jsonl", [{"query_id": "q", "doc_id": "d", "relevance": grade}])
    [row] = read_judgments(SourceSpec("jsonl", path))
    assert isinstance(row, Reject)
    assert "relevance" in row.reason
    assert row.id == "q"


def test_a_table_loses_only_its_bad_rows(tmp_path: Path) -> None:
    data = (
        b"doc_id,text\n1,good\n2\n3,a,b\n4,bad \xff byte\n5,nul \x00\n\n"
        b'6,"two\r\nlines"\n7,"x"y\n,no id\n8,"open\n9,swallowed\n'
    )
    rows = list(read_documents(SourceSpec("csv", write(tmp_path / "d.csv", data))))
    kept = {row.number: row.values["text"] for row in rows if isinstance(row, Row)}
    assert kept == {1: "good", 7: "two\r\nlines"}
    found = reasons(rows)
    assert found[2] == "1 fields, but the header has 2"
    assert found[3] == "3 fields, but the header has 2"
    assert found[4] == "invalid UTF-8"
    assert found[5] == "text contains a NUL character"
    assert found[8].startswith("broken row")
    assert found[9] == "no doc_id: it is empty"
    assert found[10].startswith("broken row: unexpected end of data")
    assert [row.raw for row in rows if row.number == 10 and isinstance(row, Reject)] == [
        '8,"open\n'
    ]


def test_a_header_must_be_usable(tmp_path: Path) -> None:
    for data, reason in {
        b"doc_id,text,text\n": "more than once",
        b"doc_id,t\xffext\n": "not UTF-8",
        b'"doc_id\n': "header cannot be read",
    }.items():
        with pytest.raises(InputError, match=reason):
            list(read_documents(SourceSpec("csv", write(tmp_path / "d.csv", data))))


# Files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["jsonl", "csv", "trec"])
def test_byte_order_mark_crlf_and_blank_lines(form: str, tmp_path: Path) -> None:
    lines = {
        "jsonl": ['{"qid":"q","docno":"d","label":1}', "", '{"qid":"q","docno":"e","label":0}'],
        "csv": ["qid,docno,label", "q,d,1", "", "q,e,0"],
        "trec": ["q 0 d 1", "", "q\t0  e\t0"],
    }[form]
    data = b"\xef\xbb\xbf" + "\r\n".join([*lines, "", "", ""]).encode()
    rows = list(read_judgments(SourceSpec(form, write(tmp_path / f"x.{form}", data))))
    assert [row.number for row in rows] == [1, 3]
    assert [row["doc_id"] for row in values(rows)] == ["d", "e"]


@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv", "parquet"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_an_empty_file_has_no_rows(form: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"empty{suffix}"
    path.write_bytes(b"")
    assert list(read_documents(SourceSpec(form, str(path)))) == []


@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv", "parquet", "trec", "quepid"])
def test_what_is_no_file_is_said(form: str, tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    os.mkfifo(tmp_path / "pipe")
    for name, error, reason in [
        ("missing", MissingResource, "does not exist"),
        ("loop", MissingResource, "form a loop"),
        ("pipe", InputError, "not a regular file"),
        ("nul\0", MissingResource, "is not a path"),
        (".", InputError, "is a folder"),
    ]:
        with pytest.raises(error, match=reason):
            list(read_judgments(SourceSpec(form, str(tmp_path / name))))
    with pytest.raises(ConfigError, match="needs a path"):
        list(read_judgments(SourceSpec(form)))


@pytest.mark.parametrize("damage", ["cut", "crc", "deflate", "plain"])
def test_broken_gzip_names_the_file_and_the_lines_read(damage: str, tmp_path: Path) -> None:
    texts = [json.dumps({"doc_id": n, "text": os.urandom(60).hex()}) for n in range(5000)]
    packed = bytearray(gzip.compress("\n".join(texts).encode()))
    match damage:
        case "cut":
            packed = packed[: len(packed) // 2]
        case "crc":
            packed[-6] ^= 0xFF
        case "deflate":
            packed[len(packed) // 2 : len(packed) // 2 + 400] = b"\xff" * 400
        case _:
            packed = bytearray(b"not packed at all")
    path = tmp_path / "d.jsonl.gz"
    path.write_bytes(packed)
    with pytest.raises(InputError, match=r"d\.jsonl\.gz: broken gzip after \d+ lines") as caught:
        for _ in read_documents(SourceSpec("jsonl", str(path))):
            pass
    read = int(str(caught.value).split("after ")[1].split(" ")[0])
    assert read == 0 if damage == "plain" else 1000 < read <= 5000


def test_gzip_is_known_by_its_content_too(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(gzip.compress(GOOD))
    assert values(read_documents(SourceSpec("jsonl", str(path)))) == [json.loads(GOOD)]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_a_document_of_ten_megabytes(form: str, tmp_path: Path) -> None:
    text = "wörd " * 2_000_000
    spec = table_of(form, tmp_path, [{"doc_id": "big", "text": text}, {"doc_id": "b", "text": "x"}])
    assert [len(str(row["text"])) for row in values(read_documents(spec))] == [len(text), 1]


def test_an_endless_line_is_one_reject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_LINE", 64)
    data = GOOD + b"\n" + b"x" * 1000 + b"\n" + GOOD + b"\n"
    rows = list(read_documents(SourceSpec("jsonl", write(tmp_path / "d.jsonl", data))))
    assert [(row.number, isinstance(row, Reject)) for row in rows] == [
        (1, False),
        (2, True),
        (3, False),
    ]


# Parquet and Lance -----------------------------------------------------------------------------


def test_a_parquet_folder_is_counted_through_its_files(tmp_path: Path) -> None:
    for part, ids in {"b/part-1": ["c"], "a/part-9": ["a", "b"]}.items():
        path = tmp_path / f"{part}.parquet"
        path.parent.mkdir()
        parquet.write_table(pa.table({"doc_id": ids, "text": ["x"] * len(ids)}), path)
    write(tmp_path / "_metadata.parquet", b"ignored")
    rows = list(read_documents(SourceSpec("parquet", str(tmp_path))))
    assert [(row.number, row.values["doc_id"]) for row in rows if isinstance(row, Row)] == [
        (1, "a"),
        (2, "b"),
        (3, "c"),
    ]


@pytest.mark.parametrize("form", ["parquet", "lance"])
def test_arrow_values_become_python_values(form: str, tmp_path: Path) -> None:
    when = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
    nanoseconds = pa.array([1767323045678901234], pa.timestamp("ns", "UTC"))
    table = pa.table(
        {
            "doc_id": pa.array([4], pa.int64()),
            "text": pa.array(["x"], pa.large_string()),
            "vector": pa.array([[1.0, 0.5]], pa.list_(pa.float32(), 2)),
            "nested": pa.array([{"a": [1, None]}]),
            "when": nanoseconds,
        }
    )
    path = tmp_path / "rows"
    if form == "parquet":
        parquet.write_table(table, path)
    else:
        import lancedb

        lancedb.connect(tmp_path).create_table("rows", table)
    assert values(read_documents(SourceSpec(form, str(path)))) == [
        {"doc_id": "4", "text": "x", "vector": [1.0, 0.5], "nested": {"a": [1, None]}, "when": when}
    ]


def test_parquet_rows_without_a_python_value_are_rejects(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"x\xff")]
    )
    table = pa.table({"doc_id": ["a", "b"], "text": bad, "n": [[0.5], [float("nan")]]})
    parquet.write_table(table, tmp_path / "x.parquet")
    rows = list(read_documents(SourceSpec("parquet", str(tmp_path / "x.parquet"))))
    assert isinstance(rows[0], Row)
    assert "cannot be read" in reasons(rows)[2]


def test_broken_parquet_and_missing_lance_tables_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    parquet.write_table(pa.table({"doc_id": ["a"], "text": ["x"]}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="broken Parquet after 0 rows"):
        list(read_documents(SourceSpec("parquet", str(path))))
    lance(tmp_path / "db" / "docs", [{"doc_id": "a", "text": "x"}])
    with pytest.raises(MissingResource, match=r"no readable Lance table 'dox'.*\['docs'\]"):
        list(read_documents(SourceSpec("lance", str(tmp_path / "db" / "dox"))))
    with pytest.raises(MissingResource, match="does not exist"):
        list(read_documents(SourceSpec("lance", str(tmp_path / "no" / "docs"))))
    assert not (tmp_path / "no").exists()
    with pytest.raises(InputError, match="names no Lance table"):
        list(read_documents(SourceSpec("lance", "docs")))


def test_parquet_streams_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "BATCH", 10)
    ids = [str(n) for n in range(95)]
    parquet.write_table(pa.table({"doc_id": ids, "text": ids}), tmp_path / "x.parquet")
    rows = read_documents(SourceSpec("parquet", str(tmp_path / "x.parquet")))
    assert [(row.number, row.values["doc_id"]) for row in rows if isinstance(row, Row)] == [
        (n + 1, str(n)) for n in range(95)
    ]


# TREC, Quepid, ir-datasets, python-docs ----------------------------------------------------------


def test_trec_qrels_and_runs(tmp_path: Path) -> None:
    qrels = write(tmp_path / "q.txt.gz", "q1 0 d1 1\nq1\t0\td2   -2\nq1 0 d3\nq1 0 d\u00a04 x\n")
    rows = list(read_judgments(SourceSpec("trec", qrels)))
    assert [row.values for row in rows if isinstance(row, Row)] == [
        {"query_id": "q1", "doc_id": "d1", "relevance": 1},
        {"query_id": "q1", "doc_id": "d2", "relevance": -2},
    ]
    assert reasons(rows) == {
        3: "3 fields, expected 4: query_id iteration doc_id relevance",
        4: "relevance is 'x', expected an integer",
    }
    run = write(
        tmp_path / "run.txt", "q1 Q0 d1 0 1.5 tag\nq1 Q0 d2 0 -3e-2 tag\nq1 Q0 d3 0 nan t\n"
    )
    rows = list(read_ranking(SourceSpec("trec", run)))
    assert [row.values for row in rows if isinstance(row, Row)] == [
        {"query_id": "q1", "doc_id": "d1", "score": 1.5},
        {"query_id": "q1", "doc_id": "d2", "score": -0.03},
    ]
    assert reasons(rows) == {3: "score is 'nan', expected a finite number"}


def test_trec_agrees_with_ir_measures(tmp_path: Path) -> None:
    import ir_measures

    lines = [f"q{n % 7} 0 doc{n} {n % 4 - 1}\n" for n in range(100)]
    path = write(tmp_path / "q.txt", "".join(lines))
    theirs = [(q.query_id, q.doc_id, q.relevance) for q in ir_measures.read_trec_qrels(path)]
    ours = values(read_judgments(SourceSpec("trec", path)))
    assert [(r["query_id"], r["doc_id"], r["relevance"]) for r in ours] == theirs


def test_a_ranking_table_needs_no_score(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "query_id,doc_id,rank,note\nq,d,1,x\nq,e,,y\n")
    assert values(read_ranking(SourceSpec("csv", path))) == [
        {"query_id": "q", "doc_id": "d", "rank": 1},
        {"query_id": "q", "doc_id": "e", "rank": None},
    ]


def test_quepid_case_export(tmp_path: Path) -> None:
    data = 'query,docid,rating\nstar wars,11,3.0\n" -force",12,0\nunrated\nsnap,13,\nbad,14,x\n'
    rows = list(read_judgments(SourceSpec("quepid", write(tmp_path / "case.csv", data))))
    assert [(row.number, row.values) for row in rows if isinstance(row, Row)] == [
        (1, {"query_text": "star wars", "doc_id": "11", "relevance": 3}),
        (2, {"query_text": "-force", "doc_id": "12", "relevance": 0}),
    ]
    assert reasons(rows) == {5: "rating is 'x', expected an integer"}


def test_quepid_book_export_has_a_row_per_rater(tmp_path: Path) -> None:
    data = "query,docid,Ann,Anonymous\nq,1,2,\nq,2,0,1\nq,3,x,1\n"
    rows = list(read_judgments(SourceSpec("quepid", write(tmp_path / "book.csv", data))))
    assert [
        (row.number, row.values["doc_id"], row.values["relevance"], row.values["source"])
        for row in rows
        if isinstance(row, Row)
    ] == [(1, "1", 2, "Ann"), (2, "2", 0, "Ann"), (2, "2", 1, "Anonymous")]
    assert list(reasons(rows)) == [3]
    with pytest.raises(InputError, match="is no Quepid export"):
        list(read_judgments(SourceSpec("quepid", write(tmp_path / "x.csv", "query,id\n"))))


def test_ir_datasets_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(MissingPrerequisite, match=r"pip install 'rescore\[ir-datasets\]'"):
        list(read_documents(SourceSpec("ir-datasets", name="beir/scifact/test")))
    with pytest.raises(ConfigError, match="needs a name"):
        list(read_documents(SourceSpec("ir-datasets")))


def fake_collection() -> SimpleNamespace:
    page = namedtuple("page", ["doc_id", "headline"])
    page.default_text = lambda self: f"{self.headline}!"  # type: ignore[attr-defined]
    judged = namedtuple("judged", ["query_id", "doc_id", "relevance", "iteration"])

    def docs() -> Iterable[object]:
        yield page("a", "News")
        raise ConnectionError("offline")

    return SimpleNamespace(
        has_docs=lambda: True,
        docs_iter=docs,
        has_queries=lambda: False,
        has_qrels=lambda: True,
        qrels_iter=lambda: iter([judged("q", "a", 1, "0")]),
    )


def test_ir_datasets_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"mini": fake_collection()}
    package = SimpleNamespace(load=known.__getitem__)
    monkeypatch.setitem(sys.modules, "ir_datasets", package)
    spec = SourceSpec("ir-datasets", name="mini")
    assert values(read_judgments(spec)) == [{"query_id": "q", "doc_id": "a", "relevance": 1}]
    documents = read_documents(spec)
    assert next(documents) == Row(1, {"doc_id": "a", "headline": "News", "text": "News!"})
    with pytest.raises(MissingResource, match="failed after 1 docs: offline"):
        next(documents)
    with pytest.raises(MissingResource, match="has no queries"):
        list(read_queries(spec))
    with pytest.raises(MissingResource, match="knows no collection 'maxi'"):
        list(read_queries(SourceSpec("ir-datasets", name="maxi")))


def test_python_docs_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"doc_id": "csv.reader", "title": "csv.reader", "text": "x", "kind": "function"}
    module = SimpleNamespace(read_python_docs=lambda: iter([row]))
    monkeypatch.setitem(sys.modules, "reranking.sources.python_docs", module)
    assert list(read_documents(SourceSpec("python-docs"))) == [Row(1, row)]


# Identity --------------------------------------------------------------------------------------


def test_an_unknown_format_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="ranking cannot be read from format 'beir'.*trec"):
        read_ranking(SourceSpec("beir", "x"))


def test_fingerprint_names_the_place_not_the_contents(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", GOOD)
    first = source_fingerprint(SourceSpec("jsonl", path), "documents")
    write(tmp_path / "a.jsonl", GOOD * 2)
    same = SourceSpec("jsonl", str(tmp_path / "." / "x" / ".." / "a.jsonl"))
    assert source_fingerprint(same, "documents") == first
    others: list[tuple[Mapping[str, str], str]] = [
        ({"format": "jsonl", "path": path}, "queries"),
        ({"format": "csv", "path": path}, "documents"),
        ({"format": "jsonl", "path": path, "split": "test"}, "documents"),
        ({"format": "jsonl", "path": path + "x"}, "documents"),
    ]
    found = {source_fingerprint(SourceSpec(**spec), kind) for spec, kind in others}
    assert len(found | {first}) == 5


def test_a_remote_place_does_not_depend_on_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SourceSpec("lance", "s3://bucket/db/docs")
    first = source_fingerprint(spec, "documents")
    monkeypatch.chdir(tmp_path)
    assert source_fingerprint(spec, "documents") == first
