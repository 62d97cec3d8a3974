"""Somebody else's table from end to end: read in place, never written."""

from __future__ import annotations

from pathlib import Path

import lancedb
import polars as pl
import pyarrow as pa
import pytest
from lancedb.index import FTS

from reranking.arrow import frame
from reranking.errors import MissingResource
from tests.support import tiny
from tests.support.walk import database_of, walk_file

FOREIGN = {"table": "products", "id": "sku", "text": "body", "vector": "embedding"}


@pytest.fixture
def config(tmp_path: Path, cross_encoder: Path) -> Path:
    rows = tiny.documents(40)
    table = pa.table(
        {
            "sku": pa.array(range(100, 140), pa.int64()),
            "body": [r["text"] for r in rows],
            "embedding": pa.array([r["vector"] for r in rows], pa.list_(pa.float32(), tiny.WIDTH)),
            "price": [float(i) for i in range(40)],
        }
    )
    lancedb.connect(tmp_path / "db.lancedb").create_table("products", table)
    tiny.write_jsonl(tmp_path / "queries.jsonl", tiny.queries(["river stone", "winter"]))
    return tiny.write_config(
        tmp_path,
        cross_encoder,
        documents={**FOREIGN, "managed": False},
        results={"publish": "ranked", "columns": ["body", "price", "query_text"]},
    )


def state(folder: Path) -> dict[str, bytes]:
    place = folder / "db.lancedb" / "products.lance"
    return {str(p): p.read_bytes() for p in place.rglob("*") if p.is_file()}


def test_it_is_read_in_place_and_never_written(config: Path, tmp_path: Path) -> None:
    lancedb.connect(tmp_path / "db.lancedb").open_table("products").create_index(
        "body", config=FTS()
    )
    before = state(tmp_path)
    run, counts = walk_file(config)
    assert counts["scored"] > 0
    assert state(tmp_path) == before
    published = frame(database_of(run).read("ranked"))
    assert set(published["query_type"]) == {"vector", "fts", "hybrid"}
    assert published.schema["doc_id"] == pl.Int64  # the source's own type, for joins
    bodies = frame(database_of(run).read("products"))
    joined = published.join(bodies, left_on="doc_id", right_on="sku", suffix="_own")
    assert len(joined) == len(published)
    assert (joined["body"] == joined["body_own"]).all()
    assert (joined["price"] == joined["price_own"]).all()


def test_a_row_changed_by_its_owner_makes_a_new_run(config: Path, tmp_path: Path) -> None:
    table = lancedb.connect(tmp_path / "db.lancedb").open_table("products")
    table.create_index("body", config=FTS())
    first, counts = walk_file(config)
    table.update(where="sku = 107", values={"body": "river river river"})
    table.optimize()
    second, more = walk_file(config)
    assert second.run_id != first.run_id
    assert 0 < more["scored"] <= 2 < counts["scored"]


def test_a_missing_fts_index_says_what_to_run(config: Path) -> None:
    with pytest.raises(MissingResource, match="create_index"):
        walk_file(config)
    run, _ = walk_file(config, "search.query_types=[vector]")
    assert database_of(run).need(run.results_table).count_rows() == 20


def test_the_first_stage_alone_is_published(config: Path, tmp_path: Path) -> None:
    lancedb.connect(tmp_path / "db.lancedb").open_table("products").create_index(
        "body", config=FTS()
    )
    run, counts = walk_file(config, "rerank=null")
    assert counts["pairs"] == counts["scored"] == 0
    rows = frame(database_of(run).read(run.results_table))
    vector = rows.filter(query_type="vector", query_id="q000").sort("rank")
    assert vector["_relevance_score"].to_list() == pytest.approx(
        [1 / (60 + r) for r in range(1, 11)]
    )
    assert "_distance" not in rows.columns
    assert database_of(run).open("pair_scores") is None
