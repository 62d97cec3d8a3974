"""Judgments as TREC qrels and BEIR folders; ir_measures reads them back."""

import json
from pathlib import Path

import pyarrow as pa
import pytest

from reranking.errors import InputError
from reranking.judgments.files import write_beir, write_trec
from reranking.sources.open import read_judgments
from reranking.sources.rows import Row
from tests.support.sources import source

JUDGED = pa.table(
    {
        "query_id": ["q1", "q1", "q1", "q2"],
        "doc_id": ["d1", "d1", "d2", "d1"],
        "relevance": pa.array([2, 1, 0, -1], pa.int32()),
        "source": ["ann", "bob\tjr", "ann", "ann"],
    }
)
UNJUDGED = pa.table({"query_id": ["q2"], "doc_id": ["d2"]})


def test_trec_qrels_are_read_back_by_ir_measures(tmp_path: Path) -> None:
    import ir_measures

    write_trec(tmp_path, JUDGED, UNJUDGED)
    rows = list(ir_measures.read_trec_qrels(str(tmp_path / "qrels.txt")))
    assert [(r.query_id, r.doc_id, r.relevance) for r in rows] == [
        ("q1", "d1", 1),
        ("q1", "d2", 0),
        ("q2", "d1", -1),
    ]
    raters = (tmp_path / "raters.tsv").read_text(encoding="utf-8").splitlines()
    assert raters == [
        "query-id\tcorpus-id\tscore\tsource",
        "q1\td1\t2\tann",
        "q1\td1\t1\tbob jr",
        "q1\td2\t0\tann",
        "q2\td1\t-1\tann",
    ]
    assert (tmp_path / "unjudged.tsv").read_text(encoding="utf-8").endswith("\nq2\td2\n")


def test_ids_with_white_space_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    broken = JUDGED.set_column(1, "doc_id", [["d 1", "d 1", "d2", "d1"]])
    with pytest.raises(InputError, match="'d 1' is empty or has white space"):
        write_trec(tmp_path, broken)
    assert not (tmp_path / "qrels.txt").exists()


def test_a_beir_folder_has_its_files(tmp_path: Path) -> None:
    corpus = [
        pa.table({"doc_id": ["d1"], "title": ["T"], "text": ["größer"]}),
        pa.table({"doc_id": ["d2"], "text": ["b"]}),
    ]
    queries = pa.table({"query_id": ["q1", "q2"], "text": ["x", "y"]})
    write_beir(tmp_path, corpus, queries, JUDGED, unjudged=UNJUDGED)

    def lines(name: str) -> list[str]:
        return (tmp_path / name).read_text(encoding="utf-8").splitlines()

    assert [json.loads(line) for line in lines("corpus.jsonl")] == [
        {"_id": "d1", "title": "T", "text": "größer"},
        {"_id": "d2", "title": "", "text": "b"},
    ]
    assert json.loads(lines("queries.jsonl")[0]) == {"_id": "q1", "text": "x"}
    assert lines("qrels/test.tsv") == [
        "query-id\tcorpus-id\tscore",
        "q1\td1\t1",
        "q1\td2\t0",
        "q2\td1\t-1",
    ]
    assert (tmp_path / "raters.tsv").exists() and (tmp_path / "unjudged.tsv").exists()


def test_a_beir_folder_keeps_blanks_inside_ids(tmp_path: Path) -> None:
    """BEIR separates by tabs, in the files beside the judgments too."""
    judged = JUDGED.set_column(1, "doc_id", [["d 1", "d 1", "d2", "d 1"]])
    unjudged = pa.table({"query_id": ["q2"], "doc_id": ["d 2"]})
    corpus = [pa.table({"doc_id": ["d 1", "d2"], "text": ["a", "b"]})]
    queries = pa.table({"query_id": ["q1", "q2"], "text": ["x", "y"]})
    write_beir(tmp_path, corpus, queries, judged, unjudged)
    rows = list(read_judgments(source("beir", str(tmp_path), split="test")))
    found = {(r.values["query_id"], r.values["doc_id"]) for r in rows if isinstance(r, Row)}
    assert found == {("q1", "d 1"), ("q1", "d2"), ("q2", "d 1")}
    assert "q2\td 2\n" in (tmp_path / "unjudged.tsv").read_text("utf-8")
    assert "q1\td 1\t2\tann\n" in (tmp_path / "raters.tsv").read_text("utf-8")
