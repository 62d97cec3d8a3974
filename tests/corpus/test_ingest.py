"""Ingest: incremental, streamed, nothing dropped silently, nothing half-written visible."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.documents import Documents, FtsIndex, VectorIndex
from reranking.arrow import frame
from reranking.corpus.ids import IdIndex, hash_values, id_words
from reranking.corpus.indexes import fts_details, unindexed
from reranking.corpus.ingest import IngestReport, ingest
from reranking.corpus.stored import READY
from reranking.errors import InputError
from reranking.sources.rows import Reject, Row
from reranking.store import Database


class CountingEncoder:
    """Two numbers per text: its length and its first letter; remembers what it was asked."""

    dimension = 2

    def __init__(self, fingerprint: str = "counting") -> None:
        self.fingerprint = fingerprint
        self.texts: list[str] = []

    def encode_documents(self, texts: list[str]) -> np.ndarray:
        self.texts += texts
        return np.array([[len(t), ord(t[0])] for t in texts], np.float32)


def rows(*documents: dict[str, Any]) -> list[Row | Reject]:
    return [Row(i, dict(d)) for i, d in enumerate(documents, 1)]


def some(count: int, **changed: str) -> list[dict[str, Any]]:
    return [
        {"doc_id": f"d{i}", "text": changed.get(f"d{i}", f"text number {i}"), "lang": "en"}
        for i in range(count)
    ]


def run(
    database: Database,
    source: Iterable[Row | Reject],
    encoder: CountingEncoder | None = None,
    **options: Any,
) -> IngestReport:
    given = list(source)  # an ingest reads its source twice
    seconds = {k: options.pop(k) for k in ("commit_seconds",) if k in options}
    return ingest(
        database,
        lambda: iter(given),
        encoder or CountingEncoder(),
        Documents(**options),
        source_fp="source",
        **seconds,
    )


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(str(tmp_path / "db"))


def test_a_second_ingest_writes_and_encodes_nothing(database: Database) -> None:
    first = run(database, rows(*some(20)))
    encoder = CountingEncoder()
    second = run(database, rows(*some(20)), encoder)
    assert (first.inserted, second.unchanged) == (20, 20)
    assert encoder.texts == []
    assert second.version == first.version == database.tagged("documents", READY)


def test_only_changed_rows_are_encoded(database: Database) -> None:
    run(database, rows(*some(20)))
    encoder = CountingEncoder()
    report = run(database, rows(*some(22, d3="another text")), encoder)
    assert (report.inserted, report.updated, report.unchanged) == (2, 1, 19)
    assert sorted(encoder.texts) == ["another text", "text number 20", "text number 21"]
    stored = frame(database.read("documents"))
    assert len(stored) == 22
    assert stored.filter(doc_id="d3")["text"].to_list() == ["another text"]
    assert stored.filter(doc_id="d3")["vector"].to_list() == [[12.0, ord("a")]]


def test_a_changed_user_column_is_rewritten(database: Database) -> None:
    run(database, rows(*some(3)))
    changed = some(3)
    changed[1]["lang"] = "de"
    assert run(database, rows(*changed)).updated == 1
    assert frame(database.read("documents")).filter(doc_id="d1")["lang"].to_list() == ["de"]


def test_a_new_user_column_is_added(database: Database) -> None:
    run(database, rows(*some(3)))
    report = run(database, rows(*some(3), {"doc_id": "d9", "text": "x", "year": 1999}))
    assert report.inserted == 1
    stored = frame(database.read("documents")).sort("doc_id")
    assert stored["year"].to_list() == [None, None, None, 1999]


def test_rows_that_left_the_source_stay_unless_asked(database: Database) -> None:
    run(database, rows(*some(10)))
    assert run(database, rows(*some(6))).deleted == 0
    assert run(database, rows(*some(6)), delete_missing=True).deleted == 4
    assert sorted(frame(database.read("documents"))["doc_id"]) == [f"d{i}" for i in range(6)]


@pytest.mark.parametrize("fault", [{"text": ""}, {"text": "x\0"}, {"text": "x", "start": "far"}])
def test_a_row_that_is_faulty_today_did_not_leave(
    database: Database, fault: dict[str, Any]
) -> None:
    run(database, rows(*some(10)))
    report = run(database, rows(*some(6), {"doc_id": "d7", **fault}), delete_missing=True)
    assert (report.rejected, report.deleted, report.kept) == (1, 3, 1)
    stored = {r["doc_id"]: r["text"] for r in database.read("documents").to_pylist()}
    assert stored["d7"] == "text number 7" and set(stored) == {f"d{i}" for i in (*range(6), 7)}


def test_a_reject_without_an_id_may_be_any_row(database: Database) -> None:
    run(database, rows(*some(10)))
    source = [*rows(*some(6)), Reject(7, None, "broken row", '"d7')]
    report = run(database, source, delete_missing=True)
    assert (report.rejected, report.deleted, report.kept) == (1, 0, 0)
    assert database.need("documents").count_rows() == 10


def test_many_deletions_stop_before_ready_moves(database: Database) -> None:
    first = run(database, rows(*some(100)))
    with pytest.raises(InputError, match="40 of 100 .* raise documents.delete_limit"):
        run(database, rows(*some(60)), delete_missing=True)
    assert database.tagged("documents", READY) == first.version
    assert database.need("documents").count_rows() == 100
    assert run(database, rows(*some(60)), delete_missing=True, delete_limit=0.4).deleted == 40
    assert run(database, rows(*some(40)), delete_missing=True, delete_limit=0.0).deleted == 20


WIDENED = [
    ([1, 2, 6.5], pa.float64(), [1.0, 2.0, 6.5]),
    ([1, "two", 3], pa.string(), ["1", "two", "3"]),
    ([True, "no"], pa.string(), ["true", "no"]),
    ([1, 2**70], pa.float64(), [1.0, float(2**70)]),
    ([1, 2**70 + 1], pa.string(), ["1", str(2**70 + 1)]),
    ([0.5, 2**53 + 1], pa.string(), ["0.5", str(2**53 + 1)]),
    ([1, 2.5, "x"], pa.string(), ["1", "2.5", "x"]),
    ([True, 1], pa.string(), ["true", "1"]),
    ([None, None, 3], pa.int64(), [None, None, 3]),
    ([float("nan"), 2, float("inf")], pa.int64(), [None, 2, None]),
]


@pytest.mark.parametrize("window_rows", [1, 2, 100])
@pytest.mark.parametrize(("values", "kind", "stored"), WIDENED)
def test_a_column_has_the_type_that_the_whole_source_asks_for(
    database: Database, values: list[Any], kind: pa.DataType, stored: list[Any], window_rows: int
) -> None:
    """Whatever comes first, and however many rows are committed at once."""
    documents = [{**d, "x": v} for d, v in zip(some(len(values)), values, strict=True)]
    run(database, rows(*documents), window_rows=window_rows, commit_seconds=1e-9)
    table = database.read("documents").sort_by("doc_id")
    assert table.schema.field("x").type == kind
    assert table["x"].to_pylist() == stored


def test_a_stored_column_that_cannot_hold_a_value_stops_before_anything(database: Database) -> None:
    first = run(database, rows(*({**d, "price": 5} for d in some(3))))
    wrong = [{**d, "price": p} for d, p in zip(some(3), [5, 7, 6.5], strict=True)]
    with pytest.raises(InputError, match="'price' is int64 .* row 3 .* Nothing was written"):
        run(database, rows(*wrong), window_rows=1)
    assert int(database.need("documents").version) == first.version
    assert run(database, rows(*({**d, "price": 6.0} for d in some(3)))).updated == 3


def test_a_declared_type_holds_from_the_first_row(database: Database) -> None:
    given = [{**d, "price": p} for d, p in zip(some(4), [5, "6.5", "free", None], strict=True)]
    report = run(database, rows(*given), types={"price": "float64"})
    assert dict(report.reasons) == {"price is no float64": 1}
    table = database.read("documents").sort_by("doc_id")
    assert table["price"].to_pylist() == [5.0, 6.5, None]
    with pytest.raises(InputError, match="double in the table and text in documents.types"):
        run(database, rows(*given), types={"price": "text"})


@pytest.mark.parametrize("window_rows", [2, 100])
def test_duplicate_ids_are_rejected_within_and_across_windows(
    database: Database, window_rows: int
) -> None:
    source = [*some(6), {"doc_id": "d2", "text": "again"}, *some(8)[6:]]
    report = run(database, rows(*source), window_rows=window_rows)
    assert (report.inserted, report.rejected) == (8, 1)
    rejects = frame(database.read("rejects"))
    assert rejects["row_number"].to_list() == [7]
    assert rejects["reason"][0].startswith("duplicate id")
    again = run(database, rows(*source), window_rows=window_rows)
    assert (again.unchanged, again.rejected) == (8, 1)
    assert frame(database.read("documents")).filter(doc_id="d2")["text"][0] == "text number 2"


def test_rejects_are_replaced_not_repeated(database: Database) -> None:
    bad = [Reject(3, "x", "empty text", None), Reject(4, None, "no id", "{}")]
    good = [Row(i, d) for i, d in enumerate(some(9), 5)]
    for _ in range(2):
        assert run(database, iter([*good, *bad])).rejected == 2
        assert database.need("rejects").count_rows() == 2
    assert run(database, iter([*good, bad[0]])).rejected == 1
    assert frame(database.read("rejects"))["row_number"].to_list() == [3]


def test_a_source_that_mostly_fails_stops_before_the_commit(database: Database) -> None:
    bad: list[Row | Reject] = [Reject(i, None, "broken JSON", None) for i in range(1, 8)]
    good: list[Row | Reject] = [Row(i, d) for i, d in enumerate(some(6), 10)]
    with pytest.raises(InputError, match=r"7 of 13 rows are bad: broken JSON \(7\)"):
        run(database, iter(bad + good))
    assert database.open("documents") is None


def test_a_later_window_that_mostly_fails_stops_there(database: Database) -> None:
    good: list[Row | Reject] = [Row(i, d) for i, d in enumerate(some(10))]
    bad: list[Row | Reject] = [Reject(i, None, "broken JSON", None) for i in range(10, 20)]
    with pytest.raises(InputError, match="10 of 10 rows are bad"):
        run(database, iter(good + bad), window_rows=10)
    assert database.tagged("documents", READY) is None  # what is in is not visible to runs


def test_an_empty_source_is_an_error(database: Database) -> None:
    with pytest.raises(InputError, match="no rows"):
        run(database, rows())


def test_empty_text_after_the_template_is_a_reject(database: Database) -> None:
    source = [{"doc_id": "a", "text": " ", "title": ""}, *some(4)]
    report = run(database, rows(*source), template="{title} {text}")
    assert report.reasons == {"empty text": 1}
    titled = [{"doc_id": "a", "text": "", "title": "only a title"}, *some(4)]
    assert run(database, rows(*titled), template="{title} {text}").rejected == 0
    assert frame(database.read("documents")).filter(doc_id="a")["text"][0] == "only a title"


def test_another_encoder_is_refused(database: Database) -> None:
    run(database, rows(*some(3)))
    with pytest.raises(InputError, match="vectors of two encoders cannot be compared"):
        run(database, rows(*some(3)), CountingEncoder("other"))


def test_indexes_cover_all_rows_and_follow_the_settings(database: Database) -> None:
    run(database, rows(*some(300)))
    run(database, rows(*some(320)))
    table = database.need("documents")
    assert unindexed(table) == {}
    details = fts_details(table, "text")
    assert details is not None and details["stem"] is True
    run(database, rows(*some(320)), fts_index=FtsIndex(stem=False))
    details = fts_details(database.need("documents"), "text")
    assert details is not None and details["stem"] is False


@pytest.mark.parametrize("kind", ["IVF_FLAT", "IVF_PQ", "IVF_HNSW_SQ", "IVF_HNSW_PQ", "IVF_RQ"])
def test_each_vector_index_can_be_asked_for(database: Database, kind: str) -> None:
    class Wide(CountingEncoder):
        def encode_documents(self, texts: list[str]) -> np.ndarray:
            return np.random.default_rng(len(texts)).normal(size=(len(texts), 16)).astype("f4")

    options: dict[str, Any] = {"type": kind}
    report = run(database, rows(*some(400)), Wide(), vector_index=VectorIndex(**options))
    kinds = {i.index_type for i in database.need("documents").list_indices()}
    assert len(kinds) == 2
    run(database, rows(*some(400)), Wide(), vector_index=VectorIndex(**options))
    assert database.tagged("documents", READY) == report.version  # not built again


def test_memory_is_a_window_and_a_few_bytes_per_row(database: Database) -> None:
    index = IdIndex()
    ids = [f"document-{i:09d}" for i in range(60_000)]
    words, hashes = id_words(ids), hash_values([i.encode()[:16] for i in ids])
    tracemalloc.start()
    index.add(words, hashes)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept / len(ids) <= 64
    assert (index.find(words) >= 0).all()
    assert (index.find(id_words(["document-x", ""])) == -1).all()


@settings(max_examples=50)
@given(st.lists(st.text(), unique=True), st.lists(st.text()))
def test_the_id_index_is_a_set(known: list[str], asked: list[str]) -> None:
    index = IdIndex()
    for start in range(0, len(known), 3):
        index.add(id_words(known[start : start + 3]))
    known_asked = index.find(id_words(known + asked)) >= 0
    assert known_asked.tolist() == [i in set(known) for i in known + asked]


def test_prefixes_of_equal_hashes_are_told_apart() -> None:
    index = IdIndex()
    words = np.array([[5, 1], [5, 2], [7, 1]], np.uint64)
    index.add(words)
    assert (index.find(words) >= 0).all()
    assert index.find(np.array([[5, 3], [6, 1]], np.uint64)).tolist() == [-1, -1]


def test_writers_that_add_the_same_columns_at_once_both_succeed(tmp_path: Path) -> None:
    run(Database(str(tmp_path)), rows(*some(1)))
    names = [f"column{i}" for i in range(6)]
    start = threading.Barrier(3)

    def add() -> None:
        database = Database(str(tmp_path))
        start.wait()
        for name in names:
            database.add_columns("documents", [pa.field(name, pa.string(), nullable=False)])

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(add) for _ in range(3)]:
            done.result()
    schema = Database(str(tmp_path)).need("documents").schema
    assert [n for n in schema.names if n.startswith("column")] == names
    assert all(schema.field(n).nullable for n in names)


def test_progress_counts_the_work_of_the_texts_that_are_encoded(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longest first: the first step of two of eight texts is most of the work."""
    from reranking.corpus import ingest as module
    from reranking.progress import Status

    monkeypatch.setattr(module, "_STEP", 2)
    told: list[Status] = []
    texts = [{"doc_id": f"d{n}", "text": "x" * (950 if n < 2 else 50)} for n in range(8)]
    ingest(
        database,
        lambda: iter(rows(*texts)),
        CountingEncoder(),
        Documents(),
        source_fp="source",
        progress=told.append,
    )
    steps = [status for status in told if status.stage == "encode"]
    assert [status.done for status in steps] == [2, 4, 6, 8]
    expected = [2000 / 2600, 2200 / 2600, 2400 / 2600, 1.0]  # 50 a text, and its characters
    assert [status.share for status in steps] == pytest.approx(expected)
