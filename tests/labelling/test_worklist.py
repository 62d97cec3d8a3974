"""Work lists: the order worked out by hand, and the layouts of judging tools there and back."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence

import pyarrow as pa
import pytest

from reranking.errors import InputError
from reranking.fingerprints import text_hash
from reranking.labelling.label_studio import label_studio, label_studio_config, read_label_studio
from reranking.labelling.ratings import ANSWERS, GRADES
from reranking.labelling.sheets import quepid_csv, read_ratings
from reranking.labelling.worklist import with_texts, work_list

NOBODY = pa.table({"query_id": pa.array([], pa.string()), "doc_id": pa.array([], pa.string())})


def run(docs: Sequence[str], query: str = "q") -> pa.Table:
    return pa.table(
        {
            "query_id": [query] * len(docs),
            "doc_id": list(docs),
            "rank": pa.array(range(1, len(docs) + 1), pa.int32()),
        }
    )


def discount(rank: int) -> float:
    return 1 / math.log2(1 + rank)


def test_what_moves_the_verdict_most_comes_first() -> None:
    table = work_list({"a": run("stuv"), "b": run("svuw")}, NOBODY, k=4)
    rows = table.to_pylist()
    # s and u stand alike in both runs, so no judgment on them can part the runs
    assert [r["doc_id"] for r in rows] == ["t", "w", "v", "s", "u"]
    assert [r["priority"] for r in rows] == pytest.approx(
        [discount(2), discount(4), discount(2) - discount(4), 0, 0]
    )
    assert rows[0]["runs"] == ["a"] and rows[2]["runs"] == ["a", "b"]
    assert rows[2]["best_rank"] == 2


def test_documents_beyond_k_count_as_not_shown() -> None:
    rows = work_list({"a": run("stuv"), "b": run("vuts")}, NOBODY, k=1).to_pylist()
    assert [(r["doc_id"], r["priority"]) for r in rows] == [("s", 1.0), ("v", 1.0)]


def test_judged_pairs_are_left_out_for_their_query_only() -> None:
    judged = pa.table({"query_id": ["q", "other"], "doc_id": ["s", "t"]})
    rows = work_list({"a": run("st")}, judged).to_pylist()
    assert [r["doc_id"] for r in rows] == ["t"]


def test_a_label_is_no_judgment() -> None:
    labelled = pa.table({"query_id": ["q"], "doc_id": ["s"], "source": ["labels:night"]})
    assert work_list({"a": run("st")}, labelled).num_rows == 2


def test_one_run_alone_is_ordered_by_rank() -> None:
    rows = work_list({"a": run("tsu")}, NOBODY).to_pylist()
    assert [r["doc_id"] for r in rows] == ["t", "s", "u"]


def test_results_of_several_query_types_are_refused() -> None:
    with pytest.raises(InputError, match="one query type"):
        work_list({"a": pa.concat_tables([run("st"), run("st")])}, NOBODY)


def scored(
    docs: Sequence[str], scores: Sequence[float], probabilities: Sequence[float] | None = None
) -> pa.Table:
    hashes = pa.array([text_hash(doc) for doc in docs], pa.binary(16))
    columns = {
        "query_id": ["q"] * len(docs),
        "doc_id": list(docs),
        "query_hash": hashes,
        "doc_hash": hashes,
        "score": pa.array(scores, pa.float32()),
        "vector_rank": pa.nulls(len(docs), pa.int32()),
        "fts_rank": pa.nulls(len(docs), pa.int32()),
    }
    if probabilities:
        columns["probability"] = probabilities
    return pa.table(columns)


NONE_JUDGED = pa.table({"query_id": ["x"], "doc_id": ["x"], "relevance": [1]})


def hundred() -> tuple[list[str], pa.Table]:
    docs = [f"d{n:02}" for n in range(100)]
    return docs, scored(docs, [float(n) for n in range(100)])


def per_region(table: pa.Table) -> list[int]:
    regions = [int(doc[1:]) // 10 for doc in table["doc_id"].to_pylist() if doc[0] == "d"]
    return [regions.count(region) for region in range(10)]


def test_the_calibration_asks_in_all_regions_and_most_around_the_cut() -> None:
    """Weights by distance from the cut's region: 4, 2.5, 1.75, ... to 1; ids that run or not."""
    docs, pairs = hundred()
    rows = work_list(
        {"a": run(["zz", *docs[-5:]])}, NONE_JUDGED, pairs=pairs, order="calibration", cut=60.0
    )
    counts = per_region(rows.slice(0, 32))
    assert all(counts) and counts[6] == max(counts)
    assert counts[6] >= 2 * counts[0] and counts == sorted(counts[:7]) + counts[7:]
    assert rows.num_rows == 101 and rows["doc_id"].to_pylist()[-1] == "zz"  # it has no score


def test_the_calibration_asks_evenly_without_a_cut_and_first_where_few_are_judged() -> None:
    docs, pairs = hundred()
    even = work_list({"a": run(docs[:3])}, NONE_JUDGED, pairs=pairs, order="calibration")
    assert per_region(even.slice(0, 30)) == [3] * 10
    judged = pa.table({"query_id": ["q"] * 5, "doc_id": docs[20:25], "relevance": [1] * 5})
    rows = work_list({"a": run(docs[:3])}, judged, pairs=pairs, order="calibration")
    assert per_region(rows.slice(0, 45)) == [5, 5, 0, 5, 5, 5, 5, 5, 5, 5]
    assert not set(docs[20:25]) & set(rows["doc_id"].to_pylist())
    with pytest.raises(InputError, match="needs the scored pairs"):
        work_list({"a": run("s")}, judged, order="calibration")


def test_what_is_asked_in_a_region_is_no_choice_of_the_score() -> None:
    docs, pairs = hundred()
    rows = work_list({"a": run(docs[:1])}, NONE_JUDGED, pairs=pairs, order="calibration")
    first = [doc for doc in rows["doc_id"].to_pylist() if doc[1] == "5"]
    assert sorted(first) == docs[50:60] and first not in (docs[50:60], docs[59:49:-1])


QUERIES = pa.table(
    {
        "query_id": ["q1", "q2", "q3"],
        "text": ["wie groß?", "=SUM(A1), or so", "wie groß?"],
        "text_hash": pa.array(
            [text_hash(t) for t in ("wie groß?", "=SUM(A1), or so", "wie groß?")], pa.binary(16)
        ),
    }
)
DOCUMENTS = pa.table({"doc_id": ["d1", "d2"], "text": ['a "quoted"\nline', "<b>bold</b>"]})
WORK = with_texts(
    pa.table({"query_id": ["q1", "q2"], "doc_id": ["d1", "d2"], "priority": [1.0, 0.5]}),
    QUERIES,
    DOCUMENTS,
)


def test_texts_that_are_gone_are_named() -> None:
    with pytest.raises(InputError, match="1 texts are missing.*'q1'.*'d9'"):
        with_texts(pa.table({"query_id": ["q1"], "doc_id": ["d9"]}), QUERIES, DOCUMENTS)


def test_quepid_has_its_header_and_no_formulas() -> None:
    rows = list(csv.reader(io.StringIO("".join(quepid_csv(WORK)))))
    assert rows == [
        ["query", "docid", "rating"],
        ["wie groß?", "d1", ""],
        [" =SUM(A1), or so", "d2", ""],
    ]


def filled(text: str, *ratings: str) -> str:
    lines = list(csv.reader(io.StringIO(text)))
    out = io.StringIO()
    csv.writer(out).writerows(
        [lines[0], *([*row[:2], rating] for row, rating in zip(lines[1:], ratings, strict=True))]
    )
    return out.getvalue()


def test_quepid_answers_come_back_under_the_raters_name() -> None:
    answers = read_ratings(filled("".join(quepid_csv(WORK)), "3", "0"), QUERIES, ["ann"], GRADES)
    assert answers.rejected == []
    assert answers.judgments.schema.equals(ANSWERS)
    rows = {
        (r["query_id"], r["doc_id"], r["relevance"], r["source"])
        for r in answers.judgments.to_pylist()
    }
    # the text of q1 is q3's too: the answer holds for both
    assert rows == {("q1", "d1", 3, "ann"), ("q3", "d1", 3, "ann"), ("q2", "d2", 0, "ann")}
    assert answers.judgments["query_hash"].to_pylist()[0] == text_hash("wie groß?")


def test_a_quepid_book_keeps_its_raters_apart() -> None:
    book = "\ufeffquery,docid,Ann,bob@x.org\nwie groß?,d1,3,\nwie groß?,d2,1,2.0\nwie groß?\n"
    answers = read_ratings(book, QUERIES.slice(0, 1), ["Ann", "bob@x.org"], GRADES)
    rows = [(r["doc_id"], r["relevance"], r["source"]) for r in answers.judgments.to_pylist()]
    assert rows == [("d1", 3, "Ann"), ("d2", 1, "Ann"), ("d2", 2, "bob@x.org")]


def test_quepid_rows_that_fit_nothing_are_rejected_with_their_line() -> None:
    text = "query,docid,rating\nunheard of,d1,2\nwie groß?,d1,good\nwie groß?,d2,nan\n"
    answers = read_ratings(text, QUERIES, ["ann"], GRADES)
    assert answers.judgments.num_rows == 0
    assert answers.rejected == [
        "line 2: no query has the text 'unheard of'",
        "line 3: rating 'good' is no whole number",
        "line 4: rating 'nan' is no whole number",
    ]


@pytest.mark.parametrize("text", ["", "a,b,c\n", "query,docid\n", "query,docid,x,x\n"])
def test_another_csv_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="expected query,docid,rating"):
        read_ratings(text, QUERIES, ["ann"], GRADES)


@pytest.mark.parametrize("lines", [False, True])
def test_label_studio_tasks_carry_ids_and_texts(lines: bool) -> None:
    text = "".join(label_studio(WORK, GRADES, lines=lines))
    tasks = [json.loads(one) for one in text.splitlines()] if lines else json.loads(text)
    assert [task["data"]["doc_id"] for task in tasks] == ["d1", "d2"]
    assert tasks[1]["data"] == {
        "query_id": "q2",
        "doc_id": "d2",
        "query": "=SUM(A1), or so",
        "document": "<b>bold</b>",
        "query_hash": text_hash("=SUM(A1), or so").hex(),
        "title": "",
        "scale": "0 1 2 3",
    }


@pytest.mark.parametrize("lines", [False, True])
def test_an_empty_work_list_is_valid_too(lines: bool) -> None:
    text = "".join(label_studio(WORK.slice(0, 0), GRADES, lines=lines))
    assert text == "" if lines else json.loads(text) == []


def annotation(choice: str, by: object, **more: object) -> dict[str, object]:
    result = {
        "from_name": "relevance",
        "to_name": "document",
        "type": "choices",
        "value": {"choices": [choice]},
    }
    return {"result": [result], "completed_by": by, "was_cancelled": False, **more}


def test_label_studio_answers_come_back_rater_by_rater() -> None:
    tasks = json.loads("".join(label_studio(WORK, GRADES)))
    tasks[0]["annotations"] = [
        annotation("3", {"id": 1, "email": "ann@x.org"}, updated_at="2021-03-09T22:16:08.728Z"),
        annotation("1", 7),
        annotation("0", 8, was_cancelled=True),
    ]
    for text in (json.dumps(tasks), "\n".join(json.dumps(task) for task in tasks)):
        answers = read_label_studio(text)
        assert answers.rejected == []
        rows = answers.judgments.to_pylist()
        assert [(r["query_id"], r["doc_id"], r["relevance"], r["source"]) for r in rows] == [
            ("q1", "d1", 3, "ann@x.org"),
            ("q1", "d1", 1, "annotator-7"),
        ]
        assert rows[0]["judged_at"].isoformat() == "2021-03-09T22:16:08.728000+00:00"
        assert rows[0]["query_hash"] == text_hash("wie groß?")


def test_a_raters_later_answer_replaces_the_earlier_one() -> None:
    tasks = json.loads("".join(label_studio(WORK, GRADES)))
    tasks[0]["annotations"] = [annotation("0", 7), annotation("2", 7)]
    assert read_label_studio(json.dumps(tasks)).judgments["relevance"].to_pylist() == [2]


@pytest.mark.parametrize(
    "task",
    [
        {"annotations": []},
        {"data": {"query_id": "q", "doc_id": "d", "query_hash": "zz"}},
        {"data": {"query_hash": "00" * 16}, "annotations": [annotation("1", 1)]},
        {
            "data": {"query_id": "q", "doc_id": "d", "query_hash": "00" * 16},
            "annotations": [annotation("good", 1)],
        },
        {
            "data": {"query_id": "q", "doc_id": "d", "query_hash": "00"},
            "annotations": [annotation("1", 1)],
        },
        {
            "data": {"query_id": 5, "doc_id": "d", "query_hash": "00" * 16},
            "annotations": [annotation("1", 1)],
        },
        "not a task",
    ],
)
def test_a_foreign_task_is_rejected_not_fatal(task: dict[str, object]) -> None:
    good = json.loads("".join(label_studio(WORK, GRADES)))[0] | {
        "annotations": [annotation("1", 1)]
    }
    answers = read_label_studio(json.dumps([task, good]))
    assert len(answers.rejected) == 1 and answers.rejected[0].startswith("task 1: ")
    assert answers.judgments.num_rows == 1


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(InputError, match="neither a JSON list"):
        read_label_studio("query,docid")


def test_the_labelling_interface_is_xml_with_one_choice_per_grade() -> None:
    from xml.etree import ElementTree

    view = ElementTree.fromstring(label_studio_config((0, 1, 2)))
    assert [choice.get("value") for choice in view.iter("Choice")] == ["0", "1", "2"]
    assert view.find("Choices").get("name") == "relevance"
