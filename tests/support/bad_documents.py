"""Cases of docs/bad-input.md: files, rows of documents, the user's own columns."""

from __future__ import annotations

import gzip
import shutil
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reranking.errors import EXIT_DONE
from reranking.store import Database
from tests.support import tiny
from tests.support.bad_bench import CASES, Bench, Outcome, case

# Files ------------------------------------------------------------------------------------------


@case("a source that is not there")
def _(bench: Bench) -> Outcome:
    return bench.source(format="jsonl", path="none.jsonl")


@case("a folder where a file is expected")
def _(bench: Bench) -> Outcome:
    (bench.folder / "folder").mkdir()
    source = {"format": "trec", "path": "folder"}
    return bench.run(judgments={"judgment_list": "j", "source": source})


@case("a file where a folder is expected")
def _(bench: Bench) -> Outcome:
    return bench.source(format="beir", path="documents.jsonl")


@case("a symlink loop")
def _(bench: Bench) -> Outcome:
    (bench.folder / "loop").symlink_to(bench.folder / "loop")
    return bench.source(format="jsonl", path="loop")


@case("a broken gzip")
def _(bench: Bench) -> Outcome:
    packed = gzip.compress((bench.folder / "documents.jsonl").read_bytes())
    bench.write("d.jsonl.gz", packed[: len(packed) // 2])
    return bench.source(format="jsonl", path="d.jsonl.gz")


@case("another format under the name")
def _(bench: Bench) -> Outcome:
    return bench.source(format="parquet", path="documents.jsonl")


@case("an empty file")
def _(bench: Bench) -> Outcome:
    bench.write("documents.jsonl", "")
    return bench.run()


@case("a CSV without a column that is needed")
def _(bench: Bench) -> Outcome:
    bench.write("d.csv", "doc_id,body\na,x\n")
    return bench.source(format="csv", path="d.csv")


@case("a BEIR split that is not there")
def _(bench: Bench) -> Outcome:
    (bench.folder / "qrels").mkdir()
    bench.write("qrels/test.tsv", "query-id\tcorpus-id\tscore\n")
    source = {"format": "beir", "path": ".", "split": "dev"}
    return bench.run(judgments={"judgment_list": "j", "source": source})


@case("a byte-order mark, CRLF line ends, blank lines")
def _(bench: Bench) -> Outcome:
    plain = bench.run().column("text")
    for name in ("documents.jsonl", "queries.jsonl"):
        data = (bench.folder / name).read_bytes()
        bench.write(name, b"\xef\xbb\xbf\r\n" + data.replace(b"\n", b"\r\n\r\n"))
    outcome = bench.run(database="other.lancedb")
    assert outcome.column("text") == plain
    return outcome


@case("a gzip without `.gz` in its name")
def _(bench: Bench) -> Outcome:
    packed = gzip.compress((bench.folder / "documents.jsonl").read_bytes())
    bench.write("documents.jsonl", packed)
    outcome = bench.run()
    assert len(outcome.column("text")) == 8
    return outcome


# Rows of documents ------------------------------------------------------------------------------

FIRST: dict[str, dict[str, Any]] = {
    "no id": {"doc_id": ...},
    "an id that is a float, a boolean or a list": {"doc_id": 1.5},
    "empty text, or white space only": {"text": " \n\t "},
    "text that is no string": {"text": 5},
    "a NUL character": {"text": "river\0stone"},
    "half of a surrogate pair": {"text": "river \ud83d"},
    "a vector with NaN or an infinity": {"vector": [float("nan")] * 8},
    "no vector and no encoder": {"vector": None},
    "`start` or `end` that is no offset": {"start": "2026-01-01"},
}
for _name, _first in FIRST.items():

    def _one(bench: Bench, first: dict[str, Any] = _first) -> Outcome:
        bench.first(**first)
        outcome = bench.run()
        assert len(outcome.column("text")) == 7
        return outcome

    CASES[_name] = _one

FIRST_LINES = {
    "invalid UTF-8": b'{"doc_id": "a", "text": "\xff"}',
    "broken JSON": b'{"doc_id": "a", "text": "x"',
}
for _name, _line in FIRST_LINES.items():

    def _bytes(bench: Bench, line: bytes = _line) -> Outcome:
        bench.first_line(line)
        outcome = bench.run()
        assert len(outcome.column("text")) == 8
        return outcome

    CASES[_name] = _bytes


@case("a vector of zeros")
def _(bench: Bench) -> Outcome:
    bench.first(vector=[0.0] * 8)
    outcome = bench.run()
    assert len(outcome.column("text")) == 8 and outcome.run is not None
    results = outcome.table(outcome.run.results_table)
    pairs = set(zip(results["query_type"], results["doc_id"], strict=True))
    assert ("vector", tiny.documents(1)[0]["doc_id"]) not in pairs
    return outcome


@case("a vector of the wrong dimension")
def _(bench: Bench) -> Outcome:
    rows = tiny.documents(8)
    bench.documents([*rows[:7], rows[7] | {"vector": [1.0] * 7}])
    return bench.run()


@case("an id twice in a file")
def _(bench: Bench) -> Outcome:
    rows = tiny.documents(8)
    bench.documents([*rows, rows[0] | {"text": "the second"}])
    outcome = bench.run()
    assert outcome.column("text") == [r["text"] for r in rows]
    return outcome


@case("an id twice across files")
def _(bench: Bench) -> Outcome:
    (bench.folder / "parts").mkdir()
    rows = tiny.documents(8)
    pq.write_table(pa.Table.from_pylist(rows), bench.folder / "parts" / "a.parquet")
    pq.write_table(pa.Table.from_pylist(rows[:2]), bench.folder / "parts" / "b.parquet")
    return bench.source(format="parquet", path="parts")


@case("an id twice, far apart")
def _(bench: Bench) -> Outcome:
    rows = tiny.documents(8)
    bench.documents([*rows[:6], rows[0], rows[6], rows[7]])
    return bench.run(documents__window_rows=3)


@case("most rows bad")
def _(bench: Bench) -> Outcome:
    rows = tiny.documents(8)
    bench.documents([*rows[:2], *({"doc_id": r["doc_id"]} for r in rows[2:])])
    outcome = bench.run()
    assert not (bench.folder / "db.lancedb" / "documents.lance").exists()
    return outcome


@case("ids with spaces, quotes, newlines, SQL and emoji")
def _(bench: Bench) -> Outcome:
    ids = ["a b", "it's", 'x"y', "line\nbreak", "'; DROP TABLE documents; --", "🦊", "\\", "100%"]
    found = [{**row, "doc_id": i} for row, i in zip(tiny.documents(8), ids, strict=True)]
    asked = tiny.queries(["river"] * 8)
    bench.documents(found)
    bench.queries([{**row, "query_id": i} for row, i in zip(asked, ids, strict=True)])
    outcome = bench.rerank()
    assert outcome.run is not None
    results = outcome.table(outcome.run.results_table)
    assert set(results["query_id"]) == set(results["doc_id"]) == set(ids)
    bench.documents(found[1:])  # deleted, updated and found again by id
    again = bench.run(documents__delete_missing=True)
    assert set(again.table("documents")["doc_id"]) == set(ids[1:])
    return again


def long_text(bench: Bench, text: str) -> Outcome:
    bench.first(text=text)
    outcome = bench.rerank()
    assert outcome.run is not None
    assert outcome.column("text")[0] == text.strip()
    results = outcome.table(outcome.run.results_table)
    assert "d000" in set(results.filter(query_type="vector")["doc_id"])
    assert results["_relevance_score"].is_finite().all()
    return outcome


@case("a document of 10 MB")
def _(bench: Bench) -> Outcome:
    return long_text(bench, "river stone " * 900_000)


@case("a single token of a million characters")
def _(bench: Bench) -> Outcome:
    return long_text(bench, "x" * 1_000_000)


# The user's own columns -------------------------------------------------------------------------


def own_columns(bench: Bench, *values: Any) -> Outcome:
    """Documents with a column `mine`, the last ones without."""
    rows = tiny.documents(8)
    for row, value in zip(rows, values, strict=False):
        row["mine"] = value
    bench.documents(rows)
    return bench.run(results={"publish": "shop", "columns": ["mine"]})


@case("integers beyond 64 bits")
def _(bench: Bench) -> Outcome:
    outcome = own_columns(bench, 2**64 + 1, -1)
    assert outcome.column("mine")[:3] == ["18446744073709551617", "-1", None]
    return outcome


@case("integers and floats")
def _(bench: Bench) -> Outcome:
    assert own_columns(bench, 2**53 + 1, 1.5).column("mine")[:2] == ["9007199254740993", "1.5"]
    shutil.rmtree(bench.folder / "db.lancedb")
    outcome = own_columns(bench, 2, 1.5)
    assert outcome.column("mine")[:3] == [2.0, 1.5, None]
    return outcome


@case("mixed types")
def _(bench: Bench) -> Outcome:
    outcome = own_columns(bench, "a", 1, True, None, 1.5, [1])
    assert outcome.column("mine")[:6] == ["a", "1", "true", None, "1.5", "[1]"]
    return outcome


@case("lists and objects")
def _(bench: Bench) -> Outcome:
    outcome = own_columns(bench, {"a": [1, "é"]}, [], {})
    assert outcome.column("mine")[:4] == ['{"a": [1, "é"]}', "[]", "{}", None]
    return outcome


@case("NaN and infinities")
def _(bench: Bench) -> Outcome:
    outcome = own_columns(bench, float("nan"), 1.5, float("inf"))
    assert outcome.column("mine")[:3] == [None, 1.5, None]
    return outcome


@case("a column that is null until later")
def _(bench: Bench) -> Outcome:
    rows = [row | {"mine": None} for row in tiny.documents(8)]
    bench.documents(rows)
    assert bench.run().code == EXIT_DONE
    outcome = own_columns(bench, None, 7)
    assert outcome.column("mine")[:3] == [None, 7, None]
    return outcome


@case("values that no longer fit the stored column")
def _(bench: Bench) -> Outcome:
    bench.first(year=2026)
    assert bench.run().code == EXIT_DONE
    bench.first(year=2026.0)  # the same without loss
    assert bench.run().column("year")[0] == 2026
    for other in (2026.5, True):
        bench.first(year=other)
        assert bench.run().code == 5
    bench.first(year="recently")
    return bench.run()


@case("a source that lost most of its rows, with `delete_missing`")
def _(bench: Bench) -> Outcome:
    rows = tiny.documents(60)
    bench.documents(rows)
    assert bench.run().code == EXIT_DONE
    bench.documents(rows[:20])
    outcome = bench.run(documents__delete_missing=True)
    assert Database(str(bench.folder / "db.lancedb")).need("documents").count_rows() == 60
    return outcome


@case("columns called `row_hash` or `text_hash`")
def _(bench: Bench) -> Outcome:
    bench.first(row_hash="mine", text_hash="mine")
    outcome = bench.run()
    assert {len(v) for n in ("row_hash", "text_hash") for v in outcome.column(n)} == {16}
    return outcome


@case("columns that differ from ours in case only")
def _(bench: Bench) -> Outcome:
    bench.first(Text="a", TITLE="b", DOC_ID="c")
    outcome = bench.run(search__where={"Text": "a", "DOC_ID": "c"})
    assert [outcome.column(n)[0] for n in ("Text", "TITLE", "DOC_ID")] == ["a", "b", "c"]
    assert outcome.run is not None
    assert set(outcome.table(outcome.run.results_table)["doc_id"]) == {"d000"}
    return outcome


def refused_names(bench: Bench, *names: str) -> Outcome:
    rows = tiny.documents(8 + 2 * len(names))
    for row, name in zip(rows, names, strict=False):
        row[name] = "x"
    bench.documents(rows)
    outcome = bench.run()
    assert len(outcome.text.splitlines()) == len(names)
    assert "source.columns: {mine: THEIRS}" in outcome.text
    return outcome


@case("a column with a name that LanceDB uses, as `_distance` or `query_index`")
def _(bench: Bench) -> Outcome:
    return refused_names(bench, "_distance", "_score", "_relevance_score", "query_index", "_rowid")


@case("a column name with a dot, a backtick or a NUL, or none")
def _(bench: Bench) -> Outcome:
    return refused_names(bench, "a.b", "`", "nul\0", "", "*")
