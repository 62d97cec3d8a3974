"""Bad input: each bad row is a reject in its place, each bad file an error that says what it is."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import pytest

from reranking.errors import InputError, MissingResource
from reranking.sources import files
from reranking.sources.open import read_documents, read_judgments
from reranking.sources.rows import Reject, Row
from tests.support.sources import jsonl, reasons, source, table_of, values, write

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
    rows = list(read_documents(source("jsonl", write(tmp_path / "d.jsonl", data))))
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
    found = [row["doc_id"] for row in values(read_documents(source("jsonl", path)))]
    assert found == [str(one) for one in ids]


@pytest.mark.parametrize(
    ("grade", "expected"),
    [(2, 2), (0, 0), (-1, -1), (3.0, 3), ("2", 2), (" 1 ", 1), ("3.0", 3), ("-2", -2), ("+1", 1)],
)
def test_whole_grades(grade: object, expected: int, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "j.jsonl", [{"query_id": "q", "doc_id": "d", "relevance": grade}])
    assert values(read_judgments(source("jsonl", path)))[0]["relevance"] == expected


@pytest.mark.parametrize(
    "grade", [1.5, "1.5", True, None, "", "high", "1_0", "٣", [1], float("nan"), 2**31, "9" * 30]
)
def test_grades_that_are_none(grade: object, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "j.jsonl", [{"query_id": "q", "doc_id": "d", "relevance": grade}])
    [row] = read_judgments(source("jsonl", path))
    assert isinstance(row, Reject)
    assert "relevance" in row.reason
    assert row.id == "q"


def test_a_table_loses_only_its_bad_rows(tmp_path: Path) -> None:
    data = (
        b"doc_id,text\n1,good\n2\n3,a,b\n4,bad \xff byte\n5,nul \x00\n\n"
        b'6,"two\r\nlines"\n7,"x"y\n,no id\n'
    )
    rows = list(read_documents(source("csv", write(tmp_path / "d.csv", data))))
    kept = {row.number: row.values["text"] for row in rows if isinstance(row, Row)}
    assert kept == {1: "good", 7: "two\r\nlines"}
    found = reasons(rows)
    assert found[2] == "1 fields, but the header has 2"
    assert found[3] == "3 fields, but the header has 2"
    assert found[4] == "invalid UTF-8: save the file as UTF-8"
    assert found[5] == "text contains a NUL character"
    assert found[8].startswith("broken row")
    assert found[9] == "no doc_id: it is empty"


def test_a_header_must_be_usable(tmp_path: Path) -> None:
    for data, reason in {
        b"doc_id,text,text\n": "more than once",
        b"doc_id,t\xffext\n": "invalid UTF-8: save the file as UTF-8",
        b'"doc_id"x,text\n': "header cannot be read",
        b'"doc_id\n': "line 1: a quote opens in this row and never closes",
    }.items():
        with pytest.raises(InputError, match=reason):
            list(read_documents(source("csv", write(tmp_path / "d.csv", data))))


def test_a_wide_header_is_read_and_a_wider_one_refused(tmp_path: Path) -> None:
    names = [f"c{n}" for n in range(9_998)]
    data = ",".join(["doc_id", "text", *names]) + "\na,b" + ",1" * len(names)
    path = write(tmp_path / "d.csv", data)
    assert len(values(read_documents(source("csv", path)))[0]) == 10_000
    for form in ("csv", "parquet"):
        wide = dict.fromkeys([*names, "doc_id", "text", "more"], "x")
        with pytest.raises(InputError, match="has 10,001 columns, at most 10,000"):
            list(read_documents(table_of(form, tmp_path, [wide])))


# Files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["jsonl", "csv", "trec"])
def test_byte_order_mark_crlf_and_blank_lines(form: str, tmp_path: Path) -> None:
    lines = {
        "jsonl": ['{"qid":"q","docno":"d","label":1}', "", '{"qid":"q","docno":"e","label":0}'],
        "csv": ["qid,docno,label", "q,d,1", "", "q,e,0"],
        "trec": ["q 0 d 1", "", "q\t0  e\t0"],
    }[form]
    data = b"\xef\xbb\xbf" + "\r\n".join([*lines, "", "", ""]).encode()
    rows = list(read_judgments(source(form, write(tmp_path / f"x.{form}", data))))
    assert [row.number for row in rows] == [1, 3]
    assert [row["doc_id"] for row in values(rows)] == ["d", "e"]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_an_empty_file_has_no_rows(form: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"empty{suffix}"
    path.write_bytes(b"")
    assert list(read_documents(source(form, str(path)))) == []


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet", "trec", "quepid"])
def test_what_is_no_file_is_said(form: str, tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    os.mkfifo(tmp_path / "pipe")
    for name, error, reason in [
        ("missing", MissingResource, "does not exist"),
        ("loop", MissingResource, "form a loop"),
        ("pipe", InputError, "not a regular file"),
        (".", InputError, "is a folder"),
    ]:
        with pytest.raises(error, match=reason):
            list(read_judgments(source(form, str(tmp_path / name))))


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
        for _ in read_documents(source("jsonl", str(path))):
            pass
    read = int(str(caught.value).split("after ")[1].split(" ")[0])
    assert read == 0 if damage == "plain" else 1000 < read <= 5000


def test_gzip_is_known_by_its_content_too(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(gzip.compress(GOOD))
    assert values(read_documents(source("jsonl", str(path)))) == [json.loads(GOOD)]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_a_document_of_ten_megabytes(form: str, tmp_path: Path) -> None:
    text = "wörd " * 2_000_000
    spec = table_of(form, tmp_path, [{"doc_id": "big", "text": text}, {"doc_id": "b", "text": "x"}])
    assert [len(str(row["text"])) for row in values(read_documents(spec))] == [len(text), 1]


def test_an_endless_line_is_one_reject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_LINE", 64)
    data = GOOD + b"\n" + b"x" * 1000 + b"\n" + GOOD + b"\n"
    rows = list(read_documents(source("jsonl", write(tmp_path / "d.jsonl", data))))
    assert [(row.number, isinstance(row, Reject)) for row in rows] == [
        (1, False),
        (2, True),
        (3, False),
    ]
