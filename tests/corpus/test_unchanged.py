"""A source that has not changed is recognised without reading a row of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs.documents import Documents
from configs.source import Source
from reranking.corpus.beside import Behind, ahead
from reranking.corpus.ingest import IngestReport, ingest
from reranking.corpus.stored import READY
from reranking.sources.open import read_documents, source_digest
from reranking.sources.rows import Reject, Row
from reranking.store import Database, equals
from tests.support import tiny


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(str(tmp_path / "db"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    rows = [*tiny.documents(30), {"doc_id": "empty", "text": ""}, {"text": "no id"}]
    return tiny.write_jsonl(tmp_path / "documents.jsonl", rows)


def run(
    database: Database, file: Path, read: Callable[[], Iterator[Row | Reject]] | None = None
) -> IngestReport:
    given = Source(format="jsonl", path=str(file))
    return ingest(
        database,
        read or (lambda: read_documents(given)),
        None,
        Documents(source=given),
        source_fp="s",
        source_digest=source_digest(given),
    )


def unread() -> Iterator[Row | Reject]:
    raise AssertionError("the source was read")


def counts(report: IngestReport) -> dict[str, Any]:
    return {k: v for k, v in report.as_dict().items() if k not in ("seconds", "version")}


def test_an_unchanged_source_is_not_read_and_tells_the_same(database: Database, file: Path) -> None:
    first = run(database, file)
    assert (first.inserted, first.rejected, len(first.reasons)) == (30, 2, 2)
    stored = database.read("rejects").to_pylist()
    again = run(database, file, unread)
    assert again.version == first.version == database.tagged("documents", READY)
    whole = counts(ingest_without_mark(database, file))
    assert counts(again) == whole and whole["unchanged"] == 30
    assert [r["row_number"] for r in stored] == [
        r["row_number"] for r in database.read("rejects").to_pylist()
    ]
    database.optimize("documents")  # other fragments, the same rows
    assert run(database, file, unread).unchanged == 30


def ingest_without_mark(database: Database, file: Path) -> IngestReport:
    given = Source(format="jsonl", path=str(file))
    read = lambda: read_documents(given)  # noqa: E731
    return ingest(database, read, None, Documents(source=given), source_fp="s")


@pytest.mark.parametrize("what", ["byte", "stored row", "rejects", "setting"])
def test_what_changed_is_read(database: Database, file: Path, what: str) -> None:
    run(database, file)
    if what == "byte":
        file.write_text(file.read_text("utf-8").replace("t7", "T7"), "utf-8")
    elif what == "stored row":
        database.delete("documents", equals("doc_id", "d003"))
    elif what == "rejects":
        database.drop("rejects")
    else:
        given = Source(format="jsonl", path=str(file), columns={"title": "text"})
        assert source_digest(given) != source_digest(given.model_copy(update={"columns": {}}))
        return
    with pytest.raises(AssertionError, match="was read"):
        run(database, file, unread)
    report = run(database, file)
    assert report.updated == (what == "byte") and report.inserted == (what == "stored row")
    assert database.need("documents").count_rows() == 30
    assert database.need("rejects").count_rows() == report.rejected == 2
    assert counts(run(database, file, unread)) | {"inserted": 0} == counts(report) | {
        "unchanged": 30,
        "inserted": 0,
        "updated": 0,
    }


def test_a_digest_is_of_all_files_and_their_names(tmp_path: Path) -> None:
    for name in ("lang=en/a.jsonl", "lang=de/b.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        tiny.write_jsonl(tmp_path / name, tiny.documents(2))
    source = Source(format="jsonl", path=str(tmp_path))
    before = source_digest(source)
    assert before == source_digest(source)
    (tmp_path / "lang=de").rename(tmp_path / "lang=fr")
    assert before != source_digest(source)
    assert source_digest(Source(format="python-docs")) is None


def test_items_made_ahead_come_in_order_with_what_making_them_raises() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise OSError("the disk is gone")

    got = []
    with pytest.raises(OSError, match="disk"):
        for item in ahead(items()):
            got.append(item)
    assert got == [0, 1, 2, 3, 4]
    assert list(ahead([])) == []


def test_work_behind_is_done_in_order_and_its_errors_are_told() -> None:
    done: list[int] = []

    def fail() -> None:
        raise OSError("full")

    with Behind() as behind:
        for number in range(20):
            behind.call(done.append, number)
    assert done == list(range(20))
    with pytest.raises(OSError, match="full"), Behind() as behind:
        behind.call(fail)
    with pytest.raises(ValueError, match="first"), Behind() as behind:
        behind.call(fail)
        raise ValueError("first")


def test_what_was_encoded_before_a_failure_is_committed(database: Database, file: Path) -> None:
    class Dies:
        fingerprint, dimension, texts_at_once = "dies", 2, 10
        calls = 0

        def encode_documents(self, texts: list[str]) -> np.ndarray:
            self.calls += 1
            if self.calls == 3:
                raise RuntimeError("no more")
            return np.ones((len(texts), 2), np.float32)

    rows = [Row(i, {"doc_id": f"d{i}", "text": f"text {i}"}) for i in range(40)]
    with pytest.raises(RuntimeError, match="no more"):
        ingest(database, lambda: iter(rows), Dies(), Documents(), source_fp="s", commit_seconds=0)
    assert database.need("documents").count_rows() == 20
    assert database.tagged("documents", READY) is None
