"""Readers: every format yields the same rows under our names."""

from __future__ import annotations

import sys
from collections import namedtuple
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from pyarrow import parquet

from configs.source import Source
from reranking.errors import (
    ConfigError,
    InputError,
    MissingPrerequisite,
    MissingResource,
)
from reranking.sources import arrow
from reranking.sources.open import (
    read_documents,
    read_judgments,
    read_queries,
    read_ranking,
    source_fingerprint,
)
from reranking.sources.rows import Row
from tests.conftest import DATA
from tests.support.sources import jsonl, lance, reasons, source, table_of, values, write

DOCS = [
    {"doc_id": "a", "title": "One", "text": "first text", "shelf": "x"},
    {"doc_id": "b", "title": "Two", "text": 'zwei, mit "Zitat"\nund Zeile', "shelf": "y"},
]


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
    spec = source(spec.format, spec.path, columns=columns)
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
    asked = source(spec.format, spec.path, columns={"doc_id": "sku", "title": "headline"})
    with pytest.raises(InputError, match="no column for title: looked for 'headline'"):
        list(read_documents(asked))


def test_queries_keep_tags_vectors_and_metadata(tmp_path: Path) -> None:
    row = {"_id": 7, "text": "q", "tags": ["t"], "vector": [1, 0.5], "metadata": {"a": [1]}}
    alone = {"qid": "8", "query": "r", "tags": "one"}
    path = jsonl(tmp_path / "q.jsonl", [row, alone])
    assert values(read_queries(source("jsonl", path))) == [
        {"query_id": "7", "text": "q", "tags": ["t"], "vector": [1, 0.5], "metadata": {"a": [1]}},
        {"query_id": "8", "text": "r", "tags": ["one"]},
    ]


# BEIR ------------------------------------------------------------------------------------------


def beir(folder: Path, suffix: str = "") -> Source:
    corpus = [{"_id": "d1", "title": "T", "text": "x", "metadata": {}}]
    jsonl(folder / f"corpus.jsonl{suffix}", corpus)
    queries = [{"_id": n, "text": f"query {n}"} for n in ("q1", "q2", "q3")]
    jsonl(folder / f"queries.jsonl{suffix}", [*queries[:2], {"text": "no id"}, queries[2]])
    write(folder / "qrels" / "test.tsv", "query-id\tcorpus-id\tscore\nq3\td1\t0\nq1\td1\t1\n")
    return source("beir", str(folder), split="test")


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_beir_split_restricts_queries_to_judged_ones(suffix: str, tmp_path: Path) -> None:
    spec = beir(tmp_path, suffix)
    assert values(read_documents(spec)) == [
        {"doc_id": "d1", "title": "T", "text": "x", "metadata": {}}
    ]
    rows = list(read_queries(spec))
    assert [row.values["query_id"] for row in rows if isinstance(row, Row)] == ["q1", "q3"]
    assert reasons(rows) == {3: "no query_id: the row has no 'query_id' or '_id' or 'qid' or 'id'"}
    every = read_queries(source("beir", spec.path))
    assert sum(isinstance(row, Row) for row in every) == 3
    assert [row["relevance"] for row in values(read_judgments(spec))] == [0, 1]


def test_beir_says_what_is_missing(tmp_path: Path) -> None:
    path = beir(tmp_path).path
    with pytest.raises(ConfigError, match="need a split: it has test"):
        list(read_judgments(source("beir", path)))
    with pytest.raises(MissingResource, match="no split 'dev': it has test"):
        list(read_judgments(source("beir", path, split="dev")))
    write(tmp_path / "qrels" / "bare.tsv", "q1\td1\t1\n")
    with pytest.raises(InputError, match="no column for query_id"):
        list(read_judgments(source("beir", path, split="bare")))
    with pytest.raises(MissingResource, match="has no corpus.jsonl"):
        list(read_documents(source("beir", str(tmp_path / "qrels"))))
    with pytest.raises(InputError, match="is a file, expected a folder"):
        list(read_documents(source("beir", str(tmp_path / "corpus.jsonl"))))


SCIFACT = DATA / "scifact"


@pytest.mark.skipif(not SCIFACT.exists(), reason="needs ../shared/data/scifact")
def test_scifact_has_its_published_size() -> None:
    spec = source("beir", str(SCIFACT), split="test")
    counts = [len(values(read(spec))) for read in (read_documents, read_queries, read_judgments)]
    assert counts == [5183, 300, 339]


# Parquet and Lance -----------------------------------------------------------------------------


def test_a_parquet_folder_is_counted_through_its_files(tmp_path: Path) -> None:
    for part, ids in {"b/part-1": ["c"], "a/part-9": ["a", "b"]}.items():
        path = tmp_path / f"{part}.parquet"
        path.parent.mkdir()
        parquet.write_table(pa.table({"doc_id": ids, "text": ["x"] * len(ids)}), path)
    write(tmp_path / "_metadata.parquet", b"ignored")
    rows = list(read_documents(source("parquet", str(tmp_path))))
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
    assert values(read_documents(source(form, str(path)))) == [
        {"doc_id": "4", "text": "x", "vector": [1.0, 0.5], "nested": {"a": [1, None]}, "when": when}
    ]


def test_parquet_rows_without_a_python_value_are_rejects(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"x\xff")]
    )
    table = pa.table({"doc_id": ["a", "b"], "text": bad, "n": [[0.5], [float("nan")]]})
    parquet.write_table(table, tmp_path / "x.parquet")
    rows = list(read_documents(source("parquet", str(tmp_path / "x.parquet"))))
    assert isinstance(rows[0], Row)
    assert "cannot be read" in reasons(rows)[2]


def test_broken_parquet_and_missing_lance_tables_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    parquet.write_table(pa.table({"doc_id": ["a"], "text": ["x"]}), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="broken Parquet after 0 rows"):
        list(read_documents(source("parquet", str(path))))
    lance(tmp_path / "db" / "docs", [{"doc_id": "a", "text": "x"}])
    with pytest.raises(MissingResource, match=r"no readable Lance table 'dox'.*\['docs'\]"):
        list(read_documents(source("lance", str(tmp_path / "db" / "dox"))))
    with pytest.raises(MissingResource, match="does not exist"):
        list(read_documents(source("lance", str(tmp_path / "no" / "docs"))))
    assert not (tmp_path / "no").exists()
    with pytest.raises(InputError, match="names no Lance table"):
        list(read_documents(source("lance", "docs")))


def test_parquet_streams_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "BATCH", 10)
    ids = [str(n) for n in range(95)]
    parquet.write_table(pa.table({"doc_id": ids, "text": ids}), tmp_path / "x.parquet")
    rows = read_documents(source("parquet", str(tmp_path / "x.parquet")))
    assert [(row.number, row.values["doc_id"]) for row in rows if isinstance(row, Row)] == [
        (n + 1, str(n)) for n in range(95)
    ]


# TREC, Quepid, ir-datasets, python-docs ----------------------------------------------------------


def test_trec_qrels_and_runs(tmp_path: Path) -> None:
    qrels = write(tmp_path / "q.txt.gz", "q1 0 d1 1\nq1\t0\td2   -2\nq1 0 d3\nq1 0 d\u00a04 x\n")
    rows = list(read_judgments(source("trec", qrels)))
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
    rows = list(read_ranking(source("trec", run)))
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
    ours = values(read_judgments(source("trec", path)))
    assert [(r["query_id"], r["doc_id"], r["relevance"]) for r in ours] == theirs


def test_a_ranking_table_needs_no_score(tmp_path: Path) -> None:
    path = write(tmp_path / "r.csv", "query_id,doc_id,rank,note\nq,d,1,x\nq,e,,y\n")
    assert values(read_ranking(source("csv", path))) == [
        {"query_id": "q", "doc_id": "d", "rank": 1},
        {"query_id": "q", "doc_id": "e", "rank": None},
    ]


def test_quepid_case_export(tmp_path: Path) -> None:
    data = 'query,docid,rating\nstar wars,11,3.0\n" -force",12,0\nunrated\nsnap,13,\nbad,14,x\n'
    rows = list(read_judgments(source("quepid", write(tmp_path / "case.csv", data))))
    assert [(row.number, row.values) for row in rows if isinstance(row, Row)] == [
        (1, {"query_text": "star wars", "doc_id": "11", "relevance": 3}),
        (2, {"query_text": "-force", "doc_id": "12", "relevance": 0}),
    ]
    assert reasons(rows) == {5: "rating is 'x', expected an integer"}


def test_quepid_book_export_has_a_row_per_rater(tmp_path: Path) -> None:
    data = "query,docid,Ann,Anonymous\nq,1,2,\nq,2,0,1\nq,3,x,1\n"
    rows = list(read_judgments(source("quepid", write(tmp_path / "book.csv", data))))
    assert [
        (row.number, row.values["doc_id"], row.values["relevance"], row.values["source"])
        for row in rows
        if isinstance(row, Row)
    ] == [
        (1, "1", 2, "Ann"),
        (2, "2", 0, "Ann"),
        (2, "2", 1, "Anonymous"),
        (3, "3", 1, "Anonymous"),
    ]
    assert list(reasons(rows)) == [3]
    with pytest.raises(InputError, match="is no Quepid export"):
        list(read_judgments(source("quepid", write(tmp_path / "x.csv", "query,id\n"))))


def test_ir_datasets_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(MissingPrerequisite, match=r"pip install 'rescore\[ir-datasets\]'"):
        list(read_documents(source("ir-datasets", name="beir/scifact/test")))


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
    spec = source("ir-datasets", name="mini")
    assert values(read_judgments(spec)) == [{"query_id": "q", "doc_id": "a", "relevance": 1}]
    documents = read_documents(spec)
    assert next(documents) == Row(1, {"doc_id": "a", "headline": "News", "text": "News!"})
    with pytest.raises(MissingResource, match="failed after 1 docs: offline"):
        next(documents)
    with pytest.raises(MissingResource, match="has no queries"):
        list(read_queries(spec))
    with pytest.raises(MissingResource, match="knows no collection 'maxi'"):
        list(read_queries(source("ir-datasets", name="maxi")))


def test_python_docs_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"doc_id": "csv.reader", "title": "csv.reader", "text": "x", "kind": "function"}
    module = SimpleNamespace(read_python_docs=lambda: iter([row]))
    monkeypatch.setitem(sys.modules, "configs.quickstart.python_docs", module)
    assert list(read_documents(source("python-docs"))) == [Row(1, row)]


# Identity --------------------------------------------------------------------------------------


def test_an_unknown_format_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="ranking cannot be read from format 'beir'.*trec"):
        read_ranking(source("beir", "x"))


def test_fingerprint_names_the_place_not_the_contents(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", "{}")
    first = source_fingerprint(source("jsonl", path), "documents")
    write(tmp_path / "a.jsonl", "{}\n{}")
    same = source("jsonl", str(tmp_path / "." / "x" / ".." / "a.jsonl"))
    assert source_fingerprint(same, "documents") == first
    others: list[tuple[Mapping[str, str], str]] = [
        ({"format": "jsonl", "path": path}, "queries"),
        ({"format": "csv", "path": path}, "documents"),
        ({"format": "jsonl", "path": path, "split": "test"}, "documents"),
        ({"format": "jsonl", "path": path + "x"}, "documents"),
    ]
    found = {source_fingerprint(Source.model_validate(spec), kind) for spec, kind in others}
    assert len(found | {first}) == 5


def test_a_remote_place_does_not_depend_on_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = source("lance", "s3://bucket/db/docs")
    first = source_fingerprint(spec, "documents")
    monkeypatch.chdir(tmp_path)
    assert source_fingerprint(spec, "documents") == first
    assert first == "ca8bb9413310db533199092263193dea"  # as earlier versions named it
