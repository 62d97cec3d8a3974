"""Quotes and blanks in CSV and TSV: no row is swallowed, and what is text stays text."""

from __future__ import annotations

from pathlib import Path

import pytest

from reranking.errors import InputError
from reranking.sources import delimited
from reranking.sources.open import read_documents, read_judgments, read_queries, read_ranking
from reranking.sources.rows import Row
from tests.support.sources import reasons, source, values, write


def hundred(faulty: str, end: str = "") -> str:
    rows = [f'd{n},"title {n}",x' for n in range(1, 101)]
    rows[59] = faulty
    return "doc_id,text,shelf\n" + "\n".join(rows) + end


@pytest.mark.parametrize(
    ("faulty", "reason"),
    [
        ('d60,"half open 60,x', "line 61: a quote opens in this row and closes only in line 62"),
        ('d60,"', "line 61: a quote opens"),
        ('"d60,half,x', "line 61: a quote opens"),
        ('d60,"a"b,x', "broken row: ',' expected after '\"'"),
    ],
)
def test_an_open_quote_costs_its_own_row_only(faulty: str, reason: str, tmp_path: Path) -> None:
    rows = list(read_documents(source("csv", write(tmp_path / "d.csv", hundred(faulty)))))
    kept = [row.values["doc_id"] for row in rows if isinstance(row, Row)]
    assert kept == [f"d{n}" for n in range(1, 101) if n != 60]
    assert list(reasons(rows)) == [60]
    assert reasons(rows)[60].startswith(reason)


def test_a_quote_that_never_closes_is_one_reject(tmp_path: Path) -> None:
    data = 'doc_id,text\n1,good\n8,"open\n9,not swallowed\n\n10,"quoted, too"\n11,last'
    rows = list(read_documents(source("csv", write(tmp_path / "d.csv", data))))
    kept = {row.values["doc_id"]: row.values["text"] for row in rows if isinstance(row, Row)}
    assert kept == {"1": "good", "9": "not swallowed", "10": "quoted, too", "11": "last"}
    assert list(reasons(rows)) == [2]
    assert reasons(rows)[2].startswith("line 3: a quote opens")


def test_rows_swallowed_between_two_stray_quotes_are_read(tmp_path: Path) -> None:
    data = 'query_id,text,tags\n1,"open,x\n2,b,x\n3,c",x,\n4,d,x\n'
    rows = list(read_queries(source("csv", write(tmp_path / "q.csv", data))))
    assert [row.values["query_id"] for row in rows if isinstance(row, Row)] == ["2", "4"]
    assert len(reasons(rows)) == 2


def test_a_quoted_row_of_several_lines_is_one_reject(tmp_path: Path) -> None:
    data = 'doc_id,text\n1,"a text\nof three\nlines",and more\n2,fine\n'
    rows = list(read_documents(source("csv", write(tmp_path / "d.csv", data))))
    assert [row.values["doc_id"] for row in rows if isinstance(row, Row)] == ["2"]
    assert reasons(rows)[1].startswith("a quote opens in line 2 and closes in line 4")


def test_many_open_quotes_end_the_source_instead_of_taking_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delimited, "MAX_REREAD", 1000)
    data = "doc_id,text\n" + "".join(f'{n},"open{n}\n' for n in range(200))
    with pytest.raises(InputError, match="line .* so many quotes .* `quoting: none`"):
        list(read_documents(source("csv", write(tmp_path / "d.csv", data))))
    path = write(tmp_path / "d.csv", data)
    assert len(values(read_documents(source("csv", path, quoting="none")))) == 200


TSV = {
    '"open quote only': '"open quote only',
    '"to be" or not': '"to be" or not',
    '"whole"': "whole",
    '"she said ""no"""': 'she said "no"',
    '""': "",
    '"': '"',
    '5" pipe': '5" pipe',
    'a, "b"': 'a, "b"',
    '"a"b"': '"a"b"',
}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_tsv_quote_encloses_a_whole_field_or_is_text(
    end: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = end.join(["query_id\ttext", *(f"{n}\t{text}" for n, text in enumerate(TSV))])
    path = write(tmp_path / "q.tsv", data)
    read = [row["text"] for row in values(read_queries(source("csv", path)))]
    assert read == list(TSV.values())
    assert "4 fields that begin with a quote were read as text, the first in line 2" in caplog.text
    raw = [row["text"] for row in values(read_queries(source("csv", path, quoting="none")))]
    assert raw == list(TSV)


def test_quoting_at_the_source_decides(tmp_path: Path) -> None:
    tabs = write(tmp_path / "d.tsv", 'doc_id\ttext\n1\t"two\tfields\nand lines"\n')
    assert values(read_documents(source("csv", tabs, quoting="csv"))) == [
        {"doc_id": "1", "text": "two\tfields\nand lines"}
    ]
    assert "`quoting: csv`" in reasons(read_documents(source("csv", tabs)))[1]
    commas = write(tmp_path / "d.csv", 'doc_id,text\n1,"open\n2,"quoted"\n')
    rows = values(read_documents(source("csv", commas, quoting="none")))
    assert [row["text"] for row in rows] == ['"open', '"quoted"']


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_blanks_around_ids_and_numbers_are_layout(ending: str, tmp_path: Path) -> None:
    lines = ["query_id, doc_id , relevance", "q1, d1, 1", ' q2 ," d2 ",  2 ']
    data = "\n".join(lines).replace(",", "\t" if ending == "tsv" else ",")
    path = write(tmp_path / f"j.{ending}", data)
    assert values(read_judgments(source("csv", path))) == [
        {"query_id": "q1", "doc_id": "d1", "relevance": 1},
        {"query_id": "q2", "doc_id": " d2 ", "relevance": 2},
    ]
    ranking = write(tmp_path / f"r.{ending}", data.replace("relevance", "score"))
    assert [row["doc_id"] for row in values(read_ranking(source("csv", ranking)))] == ["d1", " d2 "]


def test_texts_keep_their_blanks(tmp_path: Path) -> None:
    path = write(tmp_path / "d.csv", "doc_id,text, shelf\n 1 , two words , x\n")
    assert values(read_documents(source("csv", path))) == [
        {"doc_id": "1", "text": " two words ", "shelf": " x"}
    ]
