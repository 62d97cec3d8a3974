"""A table whose ids, texts and vectors stand inside structs, filtered by fields inside structs."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from lancedb.index import FTS
from lancedb.query import MatchQuery

from configs.load import load_config
from reranking.arrow import frame
from reranking.errors import ConfigError, MissingResource
from reranking.evaluation.explain import explain
from reranking.runs.run import Run
from tests.support import tiny
from tests.support.walk import database_of, walk_file

NESTED = {
    "table": "products",
    "managed": False,
    "id": "key.sku",
    "text": "meta.body",
    "vector": "meta.embedding",
}
TEXTS = ("river stone", "winter lamp")


def products(count: int = 60) -> pa.Table:
    """A table of somebody else's in which everything that is asked for stands in structs."""
    rows = tiny.documents(count)
    languages = ["en", "de", "d'e", None]
    meta = [
        {
            "body": r["text"],
            "embedding": r["vector"],
            "lang": languages[i % 4],
            "price": i / 10,
            "day": dt.date(2026, 1, 1) + dt.timedelta(days=i),
            "in depth": {"It's": i},
        }
        for i, r in enumerate(rows)
    ]
    kinds = [
        ("body", pa.string()),
        ("embedding", pa.list_(pa.float32(), tiny.WIDTH)),
        ("lang", pa.string()),
        ("price", pa.float32()),
        ("day", pa.date32()),
        ("in depth", pa.struct([("It's", pa.int32())])),
    ]
    return pa.table(
        {
            "key": pa.array([{"sku": i} for i in range(count)], pa.struct([("sku", pa.int64())])),
            "meta": pa.array(meta, pa.struct(kinds)),
            "day": pa.array([m["day"] for m in meta]),
        }
    )


@pytest.fixture
def config(tmp_path: Path, cross_encoder: Path) -> Path:
    table = lancedb.connect(tmp_path / "db.lancedb").create_table("products", products())
    table.create_index("meta.body", config=FTS())
    tiny.write_jsonl(tmp_path / "queries.jsonl", tiny.queries(TEXTS))
    return tiny.write_config(tmp_path, cross_encoder, documents=NESTED)


def legs(run: Run) -> dict[tuple[str, str], set[str]]:
    """The ids that each leg found for each query."""
    found = frame(database_of(run).read("candidates"))
    found = found.filter(pl.col("search_id") == run.search_id)
    return {
        (query, leg): set(rows.filter(pl.col(f"{leg}_rank").is_not_null())["doc_id"])
        for (query,), rows in found.group_by("query_id")
        for leg in ("vector", "fts")
    }


def by_lancedb(folder: Path, sql: str | None, limit: int) -> dict[tuple[str, str], set[str]]:
    """The same by LanceDB's own searches."""
    table = lancedb.connect(folder / "db.lancedb").open_table("products")
    found = {}
    for query in tiny.queries(TEXTS):
        by_vector = table.search(
            np.asarray(query["vector"], np.float32), vector_column_name="meta.embedding"
        ).distance_type("cosine")
        by_words = table.search(MatchQuery(query["text"], "meta.body"))
        for leg, search in (("vector", by_vector), ("fts", by_words)):
            asked: Any = search if sql is None else search.where(sql, prefilter=True)
            hits = asked.select(["key.sku"]).limit(limit).to_arrow()
            found[query["query_id"], leg] = {str(i) for i in hits["key.sku"].to_pylist()}
    return found


FILTERS = [
    ("search.where.meta.lang=en", "meta.lang = 'en'"),
    ('search.where={meta.lang: [en, "d\'e"]}', "meta.lang IN ('en', 'd''e')"),
    ("search.where.meta.price={gt: 0.1, lte: 3.3}", "meta.price BETWEEN 0.15 AND 3.35"),
    ("search.where.meta.in depth.It's.gte=20", "meta.`in depth`.`It's` >= 20"),
    (
        "search.where={meta.lang: de, day: {lt: 2026-02-10}}",
        "meta.lang = 'de' AND day < DATE '2026-02-10'",
    ),
    ("search.where={meta.day: {gte: 2026-02-01}}", "meta.day >= DATE '2026-02-01'"),
]


def test_all_that_is_asked_for_may_stand_in_structs(config: Path, tmp_path: Path) -> None:
    """The oracle is LanceDB itself, with SQL of its own; every row that fits is found."""
    run, counts = walk_file(config, "search.limit=60", "results={publish: ranked, columns: [meta]}")
    assert counts["scored"] > 0
    assert legs(run) == by_lancedb(tmp_path, None, 60)
    ranked = frame(database_of(run).read("ranked"))
    assert ranked.schema["doc_id"] == pl.Int64
    own = {row["key"]["sku"]: row["meta"] for row in products().to_pylist()}
    assert all(row["meta"]["body"] == own[row["doc_id"]]["body"] for row in ranked.to_dicts())
    told = explain(run, "q000", "59")
    assert told.documents[0].here is not None and "vector" in told.documents[0].reason


def test_nested_texts_beyond_a_batch_are_published_in_parts(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with lists and structs of texts that are more than one Arrow array can hold."""
    own = products()
    own = own.append_column("tags", pa.array([[f"t{n}", "x" * n] for n in range(len(own))]))
    database = lancedb.connect(tmp_path / "db.lancedb")
    database.create_table("products", own, mode="overwrite")
    asked = ["rerank=null", "search.query_types=[vector]"]
    published = "results={publish: NAME, columns: [tags, meta]}"
    walk_file(config, *asked, published.replace("NAME", "whole"))
    monkeypatch.setattr("reranking.arrow.BATCH_BYTES", 300)
    walk_file(config, *asked, published.replace("NAME", "parts"))
    walk_file(config, *asked, published.replace("NAME", "shared, shared: true"))
    whole = database.open_table("whole").to_arrow()
    parts = database.open_table("parts")
    batches = parts.search().to_batches()
    assert pa.Table.from_batches(batches).select(whole.column_names).equals(whole)
    shared = database.open_table("shared").to_arrow().select(whole.column_names)
    assert shared.sort_by([("query_id", "ascending"), ("rank", "ascending")]).equals(
        whole.sort_by([("query_id", "ascending"), ("rank", "ascending")])
    )


@pytest.mark.parametrize(("override", "sql"), FILTERS)
def test_a_filter_inside_structs_holds_in_both_legs(
    config: Path, tmp_path: Path, override: str, sql: str
) -> None:
    run, _ = walk_file(config, override, "rerank=null", "search.limit=60")
    found = legs(run)
    assert found == by_lancedb(tmp_path, sql, 60)
    table = lancedb.connect(tmp_path / "db.lancedb").open_table("products")
    fitting = table.search().where(sql).select(["key.sku"]).to_arrow()["key.sku"].to_pylist()
    assert found["q000", "vector"] == {str(i) for i in fitting} and 0 < len(fitting) < 60


def test_rows_without_text_are_left_out_beside_a_filter(config: Path, tmp_path: Path) -> None:
    """A date beside another condition: as SQL it has to be of its column's type."""
    rows = products().to_pylist()
    rows[0]["meta"]["body"], rows[1]["meta"] = " ", None
    database = lancedb.connect(tmp_path / "db.lancedb")
    table = database.create_table(
        "products", pa.Table.from_pylist(rows, products().schema), mode="overwrite"
    )
    table.create_index("meta.body", config=FTS())
    run, _ = walk_file(config, "search.where={day: {lte: 2026-01-05}}", "rerank=null")
    assert legs(run)["q000", "vector"] == {"2", "3", "4"}
    rejects = frame(database_of(run).read("rejects"))
    assert sorted(rejects["id"]) == ["0", "1"]


def test_an_override_names_a_field_by_its_path(config: Path) -> None:
    def where(*overrides: str) -> dict[str, Any]:
        return dict(load_config(config, list(overrides)).search.where)

    before = "search.where={meta.lang: de}"
    assert where(before, "search.where.meta.lang=en") == {"meta.lang": "en"}
    assert where("search.where.meta.price.lt=3") == {"meta.price": {"lt": 3}}
    assert where("search.where.a.b.c=[x]", before) == {"meta.lang": "de"}
    assert where(before, "search.where.year.gte=1", "search.where.year.lt=3") == {
        "meta.lang": "de",
        "year": {"gte": 1, "lt": 3},
    }


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("documents.text=meta.title", r"has no column \['meta.title'\].*'meta.body'.*by its path"),
        ("documents.text=meta", "'meta' is struct.*expected text"),
        ("documents.id=meta.price", "'meta.price' is float, expected text or integers"),
        ("documents.vector=meta.lang", "'meta.lang' is string, expected a fixed-size list"),
        ("search.where.meta.tag=x", r"names \['meta.tag'\]; the columns are .*'meta.lang'"),
        ("search.where={meta: x}", "which cannot be filtered; its fields are .*'meta.lang'"),
        ("search.where.meta.price=x", "not comparable with 'x'"),
        ("results={publish: r, columns: [meta.lang]}", "choose from .*'meta'.*carried whole"),
    ],
)
def test_what_is_not_possible_is_said_with_what_is(
    config: Path, override: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        walk_file(config, override)


def test_a_missing_index_is_told_with_its_path(config: Path, tmp_path: Path) -> None:
    table = lancedb.connect(tmp_path / "db.lancedb").open_table("products")
    table.drop_index("meta.body_idx")
    with pytest.raises(MissingResource, match=r"create_index\('meta.body', config=FTS\(\)\)"):
        walk_file(config)
