"""The standard library as documents, and the quickstart's questions and judgments about it."""

import json
import re
from collections import Counter, defaultdict

import pytest

from configs.quickstart.python_docs import read_python_docs
from tests.conftest import REPOSITORY

QUICKSTART = REPOSITORY / "configs" / "quickstart"
Row = dict[str, object]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return list(read_python_docs())


@pytest.fixture(scope="module")
def by_id(rows: list[Row]) -> dict[object, Row]:
    return {row["doc_id"]: row for row in rows}


@pytest.fixture(scope="module")
def questions() -> list[dict[str, object]]:
    lines = (QUICKSTART / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def judgments() -> list[tuple[str, str, int]]:
    lines = (QUICKSTART / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "query-id\tcorpus-id\tscore"
    parts = [line.split("\t") for line in lines[1:]]
    return [(query, document, int(grade)) for query, document, grade in parts]


def test_rows_have_the_promised_columns_and_every_kind(rows: list[Row]) -> None:
    assert {tuple(row) for row in rows} == {("doc_id", "title", "text", "kind", "module")}
    assert 4_000 <= len(rows) <= 9_000
    kinds = Counter(row["kind"] for row in rows)
    assert set(kinds) == {"module", "class", "function", "method"}
    assert min(kinds.values()) > 200


def test_ids_and_texts_are_unique(rows: list[Row]) -> None:
    assert len({row["doc_id"] for row in rows}) == len(rows)
    assert len({row["text"] for row in rows}) == len(rows)


def test_a_second_call_gives_the_same_rows(rows: list[Row]) -> None:
    assert list(read_python_docs()) == rows


def test_no_text_depends_on_the_process(rows: list[Row]) -> None:
    assert [row["doc_id"] for row in rows if re.search(r"at 0x[0-9a-f]{6}", str(row["text"]))] == []


def test_text_is_name_signature_docstring(by_id: dict[object, Row]) -> None:
    text = str(by_id["json.loads"]["text"])
    assert text.startswith("json.loads(s, *, cls=None, object_hook=None, ")
    assert "\n\nDeserialize ``s``" in text
    assert by_id["str.split"] == {
        "doc_id": "str.split",
        "title": "str.split",
        "text": "str.split(sep=None, maxsplit=-1)\n\n" + inspect_doc(str.split),
        "kind": "method",
        "module": "builtins",
    }


def inspect_doc(value: object) -> str:
    return "\n".join(line.rstrip() for line in (value.__doc__ or "").strip().splitlines())


@pytest.mark.parametrize(
    ("listed", "other_name"),
    [
        ("json.JSONDecoder", "json.decoder.JSONDecoder"),
        ("os.path.join", "posixpath.join"),
        ("open", "io.open"),
        ("dict.get", "builtins.dict.get"),
        ("asyncio.run", "asyncio.runners.run"),
        ("random.choice", "random.Random.choice"),
        ("bisect.bisect_right", "bisect.bisect"),
        ("pathlib.PurePath.suffix", "pathlib.Path.suffix"),
        ("contextlib.ExitStack.close", "contextlib.AsyncExitStack.close"),
        ("TimeoutError", "asyncio.TimeoutError"),
    ],
)
def test_each_object_stands_under_one_name(
    by_id: dict[object, Row], listed: str, other_name: str
) -> None:
    assert listed in by_id
    assert other_name not in by_id


def test_private_names_are_left_out(by_id: dict[object, Row]) -> None:
    parts = {part for name in by_id for part in str(name).split(".")}
    assert {part for part in parts if part.startswith("_")} == {"__future__"}


def test_reading_writes_nothing_to_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    assert sum(1 for _ in read_python_docs()) > 0
    assert capfd.readouterr().out == ""


def test_questions_are_many_distinct_and_tagged(questions: list[dict[str, object]]) -> None:
    assert len(questions) >= 130
    assert len({question["_id"] for question in questions}) == len(questions)
    assert len({question["text"] for question in questions}) == len(questions)
    for question in questions:
        assert set(question) == {"_id", "text", "metadata"}
        assert question["metadata"]["tags"]  # type: ignore[index]


def test_judgments_name_known_questions_and_existing_documents(
    questions: list[dict[str, object]],
    judgments: list[tuple[str, str, int]],
    by_id: dict[object, Row],
) -> None:
    assert {query for query, _, _ in judgments} == {question["_id"] for question in questions}
    assert sorted({document for _, document, _ in judgments if document not in by_id}) == []
    assert len({(query, document) for query, document, _ in judgments}) == len(judgments)


def test_every_question_has_an_answer_and_grades_are_0_to_3(
    judgments: list[tuple[str, str, int]],
) -> None:
    grades = defaultdict(set)
    for query, _, grade in judgments:
        grades[query].add(grade)
    assert set.union(*grades.values()) == {0, 1, 2, 3}
    assert [query for query, found in grades.items() if max(found) < 2] == []


def test_questions_do_not_give_the_answer_away(
    questions: list[dict[str, object]], judgments: list[tuple[str, str, int]]
) -> None:
    words = {
        question["_id"]: set(re.findall(r"\w+", str(question["text"]).lower()))
        for question in questions
    }
    given_away = [
        (query, document)
        for query, document, grade in judgments
        if grade == 3 and document.rpartition(".")[2].lower() in words[query]
    ]
    assert given_away == []
