"""Work lists there and back: what a person rated comes back under the same ids and texts."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reranking.errors import InputError
from reranking.fingerprints import text_hash
from reranking.labelling.label_studio import label_studio, read_label_studio
from reranking.labelling.ratings import GRADES
from reranking.labelling.sheets import quepid_csv, read_ratings, sheet_csv
from reranking.spreadsheets import escaped, unescaped

NASTY = [
    "=1+1",
    " =x",
    "\tTAB=1",
    "\rCR",
    "-",
    "@a",
    "a\u2028b",
    "\u0085",
    "x\r\ny",
    " 1 ",
    '"',
    ";",
]
TEXTS = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
).filter(lambda text: bool(text.strip()))


def queries_of(texts: list[str]) -> pa.Table:
    return pa.table(
        {
            "query_id": [f"q{n}" for n in range(len(texts))],
            "text": texts,
            "text_hash": pa.array([text_hash(text) for text in texts], pa.binary(16)),
        }
    )


def work_of(queries: pa.Table, docs: list[str]) -> pa.Table:
    rows = [(query, doc) for query in queries.to_pylist() for doc in docs]
    columns: dict[str, list[Any]] = {
        "query_id": [query["query_id"] for query, _ in rows],
        "doc_id": [doc for _, doc in rows],
        "query": [query["text"] for query, _ in rows],
        "title": [doc[::-1] for _, doc in rows],
        "document": [f"{doc} text\r\n of\u2029it" for _, doc in rows],
    }
    hashes = pa.array([query["text_hash"] for query, _ in rows], pa.binary(16))
    return pa.table(columns).append_column("query_hash", hashes)


def rated(text: str, delimiter: str = ",") -> str:
    """The CSV as a spreadsheet that knows nothing of it writes it, each line with a rating."""
    lines = list(csv.reader(io.StringIO(text, newline="")))
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(lines[0])
    writer.writerows([*row[:2], str(n % 4), *row[3:]] for n, row in enumerate(lines[1:]))
    return out.getvalue()


def pairs(rows: pa.Table) -> set[tuple[str, str]]:
    return set(zip(rows["query_id"].to_pylist(), rows["doc_id"].to_pylist(), strict=True))


@given(st.text(max_size=6) | st.sampled_from(NASTY))
def test_an_escaped_cell_is_no_formula_and_is_taken_back_exactly(text: str) -> None:
    cell = escaped(text)
    assert unescaped(cell) == text
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


@settings(max_examples=60)
@given(
    st.lists(TEXTS, min_size=1, max_size=3, unique_by=lambda t: "".join(t.split())),
    st.lists(TEXTS, min_size=1, max_size=4, unique=True),
    st.sampled_from([sheet_csv, lambda work, _: quepid_csv(work)]),
    st.sampled_from([",", ";"]),
)
def test_every_row_of_a_csv_comes_back(
    texts: list[str], docs: list[str], write: Any, delimiter: str
) -> None:
    queries = queries_of(texts)
    work = work_of(queries, docs)
    back = read_ratings(rated("".join(write(work, GRADES)), delimiter), queries, ["ann"], GRADES)
    assert back.rejected == []
    assert pairs(back.judgments) == pairs(work)
    by_pair = {(r["query_id"], r["doc_id"]): r["relevance"] for r in back.judgments.to_pylist()}
    assert [by_pair[r["query_id"], r["doc_id"]] for r in work.to_pylist()] == [
        n % 4 for n in range(work.num_rows)
    ]


@settings(max_examples=60)
@given(
    st.lists(TEXTS, min_size=1, max_size=3, unique=True),
    st.lists(TEXTS, min_size=1, max_size=4, unique=True),
    st.booleans(),
)
def test_every_label_studio_task_comes_back(texts: list[str], docs: list[str], lines: bool) -> None:
    work = work_of(queries_of(texts), docs)
    text = "".join(label_studio(work, GRADES, lines=lines))
    if lines:
        assert len(text.splitlines()) == work.num_rows  # by any reader's idea of a line
    tasks = [json.loads(line) for line in text.split("\n") if line] if lines else json.loads(text)
    for number, task in enumerate(tasks):
        value = {"from_name": "relevance", "value": {"choices": [str(number % 4)]}}
        task["annotations"] = [{"completed_by": 1, "result": [value]}]
    dump = [json.dumps(task, ensure_ascii=False) for task in tasks]
    back = read_label_studio("\n".join(dump) if lines else f"[{','.join(dump)}]")
    assert back.rejected == []
    assert pairs(back.judgments) == pairs(work)
    assert back.judgments["relevance"].to_pylist() == [n % 4 for n in range(work.num_rows)]


QUERIES = queries_of(["red lamp", "blue"])
HEADER = "query,docid,rating\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("red lamp,d,1e30", "is not on the scale 0 1 2 3"),
        ("red lamp,d,99999999999", "is not on the scale"),
        ("red lamp,d,4", "is not on the scale"),
        ("red lamp,d,-1", "is not on the scale"),
        ("red lamp,d,inf", "no whole number"),
        ("red lamp,d," + "9" * 200_000, "..."),
        ("red lamp,,1", "names no document"),
        ("red lamp,\udc80,1", "invalid UTF-8"),
        ("green,d,1", "no query has the text"),
        ("red lamp,d,1,2,3", "5 fields, but the header has 3"),
        ("red lamp,good,3", "is rated 3 here and 2 before"),
    ],
)
def test_one_bad_rating_is_a_reject_and_the_others_are_taken_in(line: str, reason: str) -> None:
    text = f"{HEADER}red lamp,good,2\n{line}\nblue,also,0\n"
    back = read_ratings(text, QUERIES, ["ann"], GRADES)
    assert len(back.rejected) == 1 and reason in back.rejected[0], back.rejected
    assert back.rejected[0].startswith("line 3: ") and len(back.rejected[0]) < 300
    assert back.judgments["doc_id"].to_pylist() == ["good", "also"]


def test_a_field_beyond_the_csv_readers_own_limit_is_read() -> None:
    text = f"query,docid,rating,text\nred lamp,d,1,{'x' * 200_000}\n"
    assert read_ratings(text, QUERIES, ["ann"], GRADES).judgments.num_rows == 1


@pytest.mark.parametrize(
    ("text", "raters", "reason"),
    [
        ("query,docid,rating,price\nblue,d,1,2\n", ["ann"], "unknown columns ['price']"),
        ("query,docid,price\nblue,d,2\n", ["ann"], "unknown columns ['price']"),
        ("query,docid,ann,price\nblue,d,1,2\n", ["ann"], "unknown columns ['price']"),
        ("query,docid,title\nblue,d,2\n", ["ann"], "no column holds ratings"),
        (HEADER, ["ann", "bob"], "is one rater's"),
        (f'{HEADER}blue,"d,1\nred lamp,d,2\n', ["ann"], "opens in line 2"),
    ],
)
def test_columns_that_nobody_named_are_no_grades(text: str, raters: list[str], reason: str) -> None:
    with pytest.raises(InputError) as refused:
        read_ratings(text, QUERIES, raters, GRADES)
    assert reason in str(refused.value)


def test_a_decimal_comma_is_read_where_semicolons_separate() -> None:
    back = read_ratings("query;docid;rating\nblue;d;2,0\n", QUERIES, ["ann"], GRADES)
    assert back.judgments["relevance"].to_pylist() == [2]


PAIR = {"query_id": "q0", "doc_id": "d", "query_hash": text_hash("red lamp").hex()}


def result(value: object, name: str = "relevance") -> dict[str, Any]:
    return {"data": PAIR, "annotations": [{"completed_by": 1, "result": [
        {"from_name": name, "value": value}]}]}  # fmt: skip


@pytest.mark.parametrize(
    ("task", "grade"),
    [
        (result({"rating": 3}), 3),
        (result({"choices": ["2"]}), 2),
        ({**PAIR, "relevance": "2", "annotator": 1, "id": 5, "updated_at": "2026-01-02T03:04Z"}, 2),
        ({**PAIR, "relevance": 1, "annotator": 1}, 1),
        ({**PAIR, "relevance": {"choices": ["1"]}, "annotator": {"id": 1}}, 1),
    ],
)
def test_choices_ratings_and_json_min_are_read(task: dict[str, Any], grade: int) -> None:
    back = read_label_studio(json.dumps([task]))
    assert back.rejected == []
    assert [(r["relevance"], r["source"]) for r in back.judgments.to_pylist()] == [
        (grade, "annotator-1")
    ]


@pytest.mark.parametrize(
    "task",
    [
        {"data": PAIR, "annotations": None},
        {"data": PAIR, "annotations": [{"result": None}]},
        {"data": PAIR, "annotations": [{"result": []}]},
        {"data": PAIR, "annotations": [{"result": [{"from_name": "relevance", "value": None}]}]},
        {**PAIR, "relevance": None},
    ],
)
def test_what_nobody_answered_is_no_reject(task: dict[str, Any]) -> None:
    back = read_label_studio(json.dumps([task]))
    assert (back.rejected, back.judgments.num_rows) == ([], 0)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (json.dumps(result({"choices": ["1"]}, "quality")), "expected in a tag named 'relevance'"),
        (json.dumps({**PAIR, "quality": 1}), "has no field 'relevance'"),
        (json.dumps(result({"text": ["good"]})), "neither of a Choices nor of a Rating tag"),
        (json.dumps(result({"choices": ["1", "2"]})), "are not one"),
        (json.dumps(result({"rating": 1e30})), "not on the scale"),
        (json.dumps(result({"rating": True})), "no whole number"),
        (json.dumps({**PAIR, "doc_id": "\ud800", "relevance": 1}), "a lone surrogate"),
        (json.dumps({**PAIR, "doc_id": 5, "relevance": 1}), "expected the texts query_id"),
        ('{"x":' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"x":' + "9" * 10_000 + "}", "broken JSON"),
    ],
)
@pytest.mark.parametrize("lines", [False, True])
def test_one_bad_task_is_a_reject_and_the_others_are_taken_in(
    raw: str, reason: str, lines: bool
) -> None:
    good = json.dumps(result({"choices": ["1"]}))
    back = read_label_studio(f"{good}\n{raw}\n" if lines else f"[{good},{raw}]")
    assert len(back.rejected) == 1 and reason in back.rejected[0], back.rejected
    assert back.rejected[0].startswith("task 2: ") and len(back.rejected[0]) < 300
    assert back.judgments.num_rows == 1
