"""Documents by their ids: few are asked for by a condition, many by where their rows stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
import pytest

from reranking.corpus import corpus as module
from reranking.corpus.corpus import Corpus, columns_of, texts_of
from reranking.store import Database

TEXTS = ["river", None, "", "stone", "older", "newer", "lamp", "o'brien"]


def table_of(folder: Path, ids: pa.Array) -> Database:
    rows = pa.table({"id": ids, "body": TEXTS, "at": pa.array(range(8), pa.int64())})
    lancedb.connect(folder / "db").create_table("products", rows)
    return Database(str(folder / "db"))


@pytest.mark.parametrize("few", [1, 1000])
@pytest.mark.parametrize(
    ("ids", "asked"),
    [
        (pa.array(["a", "b", "c", "d", "e", "e", "f'", 'g"']), ["a", "b", "e", "f'", 'g"', "z"]),
        (pa.array([1, 2, 3, 4, 5, 5, 6, -7], pa.int16()), ["1", "2", "5", "6", "-7", "9", "x"]),
        (pa.array([1, 2, 3, 4, 5, 5, 6, 2**63], pa.uint64()), ["1", "2", "5", "6", str(2**63)]),
    ],
)
def test_the_same_rows_either_way(
    tmp_path: Path, ids: pa.Array, asked: list[str], few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_IDS_PER_QUERY", few)
    database = table_of(tmp_path, ids)
    given: dict[str, Any] = {"id": "id", "text": "body", "scored": "body", "hash_column": None}
    corpus = Corpus("products", 1, False, **given, skips_empty=True, newest_by="at")
    first, _, newest, sixth, seventh = asked[:5]  # the second has no text
    expected = {first: "river", newest: "newer", sixth: "lamp", seventh: "o'brien"}
    assert texts_of(database, corpus, asked) == expected
    whole = Corpus("products", 1, False, **given)
    rows = [r for b in columns_of(database, whole, asked, ["at"]) for r in b.to_pylist()]
    assert sorted(r["at"] for r in rows) == [0, 1, 4, 5, 6, 7]
    assert {*rows[0]} == {"id", "at"}
    assert texts_of(database, whole, []) == {}
