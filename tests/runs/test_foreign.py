"""Somebody else's table from end to end: read in place, never written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import lancedb
import polars as pl
import pyarrow as pa
import pytest
from lancedb.index import FTS
from polars.testing import assert_frame_equal

from configs.load import ConfigFault, load_config
from reranking import order
from reranking.arrow import frame
from reranking.errors import ConfigError, InputError, MissingResource
from reranking.pipeline import Pipeline
from reranking.progress import unwatched
from reranking.runs import candidates
from reranking.steps import Here
from tests.support import tiny
from tests.support.walk import database_of, walk, walk_file

FOREIGN = {"table": "products", "id": "sku", "text": "body", "vector": "embedding"}
DROPPED = "was dropped and made again while the run was reading version 2"


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


def table_of(folder: Path, change: dict[int, dict[str, Any]], more: list[dict[str, Any]]) -> Any:
    """The table `products` with some values changed and rows added, and its FTS index."""
    database = lancedb.connect(folder / "db.lancedb")
    rows = database.open_table("products").to_arrow().to_pylist()
    for number, values in change.items():
        rows[number] |= values
    table = database.open_table("products").to_arrow().schema
    changed = pa.field("changed", pa.int64())
    schema = table if "changed" in table.names else table.append(changed)
    made = pa.Table.from_pylist([{"changed": 1} | r for r in rows] + more, schema)
    opened = database.create_table("products", schema=schema, mode="overwrite")
    opened.add(made)
    opened.create_index("body", config=FTS())
    return opened


def test_rows_without_text_are_left_out_and_counted(config: Path, tmp_path: Path) -> None:
    near = json.loads((tmp_path / "queries.jsonl").read_text().splitlines()[0])["vector"]
    empty = {3: {"body": None}, 4: {"body": ""}, 5: {"body": " \n\u2003"}, 6: {"embedding": None}}
    table_of(tmp_path, {n: {"embedding": near} | values for n, values in empty.items()}, [])
    pipeline = Pipeline(load_config(config), Here(unwatched))
    summary = order.rescore(pipeline)
    assert summary.as_dict()["rejected"] == 3
    assert summary.documents == {"rows": 40, "rejected": 3, "without_vector": 1, "older": 0}
    found = frame(pipeline.database.read("ranked"))
    assert not set(found["doc_id"]) & {103, 104, 105}
    for query in ("q000", "q001"):  # the limit is that of documents with a text
        assert len(found.filter(query_id=query, query_type="vector")) == 10
    rejects = pipeline.database.read("rejects").to_pylist()
    assert [(r["id"], r["reason"]) for r in rejects] == [
        (str(n), "empty text") for n in (103, 104, 105)
    ]
    again = order.rescore(Pipeline(load_config(config), Here(unwatched)))
    assert again.finished_before and again.rejects == 3
    assert pipeline.database.need("rejects").count_rows() == 3
    table_of(tmp_path, {n: {"body": "river"} for n in (3, 4, 5)}, [])
    mended = order.rescore(Pipeline(load_config(config), Here(unwatched)))
    assert mended.rejects == 0 and pipeline.database.need("rejects").count_rows() == 0


def test_ids_that_stand_twice_are_named_or_the_newest_row_counts(
    config: Path, tmp_path: Path
) -> None:
    near = json.loads((tmp_path / "queries.jsonl").read_text().splitlines()[0])["vector"]
    stale = {"sku": 101, "body": "river stone", "embedding": near, "price": 0.0, "changed": 0}
    newer = {"sku": 102, "body": "river stone stone", "embedding": near, "price": 7.0, "changed": 2}
    table_of(tmp_path, {}, [stale, newer])
    with pytest.raises(InputError, match=r"has 2 ids .* \(in 4 rows\), e.g. '101', '102'"):
        walk_file(config)
    rule = "documents.on_duplicate={newest_by: changed}"
    run, _ = walk_file(config, rule)
    found = frame(database_of(run).read("ranked")).filter(query_id="q000")
    assert 102 in set(found["doc_id"])
    assert all(p != 0.0 for p in found.filter(doc_id=101)["price"])
    assert set(found.filter(doc_id=102)["price"]) == {7.0}
    best = found.filter(query_type="vector").sort("_distance")
    assert best["doc_id"][0] == 102 and len(best) == best["doc_id"].n_unique() == 10
    plain = lancedb.connect(tmp_path / "db.lancedb")
    plain.open_table("products").delete("changed = 0 OR (sku = 102 AND changed = 1)")
    same, _ = walk_file(config)  # the owner deletes them: the same content, the same search
    assert same.run_id == run.run_id
    table_of(tmp_path, {}, [stale | {"changed": 1}])
    with pytest.raises(InputError, match="does not say which row is the newest.*'101'"):
        walk_file(config, rule)


def test_a_template_is_refused_and_says_what_to_use(config: Path) -> None:
    with pytest.raises(ConfigFault, match=r"rerank\.column"):
        load_config(config, ["documents.template='{body}!'"])


def test_documents_of_another_database_are_only_read(config: Path, tmp_path: Path) -> None:
    lancedb.connect(tmp_path / "db.lancedb").open_table("products").create_index(
        "body", config=FTS()
    )
    inside, _ = walk_file(config)
    place = Path(tempfile.mkdtemp())  # pytest's own folders are closed to other users
    try:
        shutil.copytree(tmp_path / "db.lancedb" / "products.lance", place / "shop/products.lance")
        for path in [place / "shop", *(place / "shop").rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        before = {str(p): p.stat().st_mtime_ns for p in (place / "shop").rglob("*")}
        model = shutil.copytree(load_config(config).rerank.model_name, place / "model")
        (place / "own").mkdir()
        for path in (place, place / "own", *Path(model).iterdir()):
            path.chmod(0o777)
        options = (
            f"documents.database={place / 'shop'}",
            f"database={place / 'own'}",
            f"rerank.model_name={model}",
            f"queries.source.path={place / 'queries.jsonl'}",
        )
        shutil.copy(tmp_path / "queries.jsonl", place / "queries.jsonl")
        settings = load_config(config, options)
        with as_nobody():
            run, _ = walk(settings)
        assert {str(p): p.stat().st_mtime_ns for p in (place / "shop").rglob("*")} == before
        assert run.run_id == inside.run_id  # the same documents, wherever they are
        opened = lancedb.connect(place / "own")
        assert "products" not in opened.list_tables().tables
        columns = ["query_id", "query_type", "rank", "doc_id", "body"]
        own = frame(opened.open_table("ranked").to_arrow()).select(columns).sort(columns)
        other = frame(database_of(inside).read("ranked")).select(columns).sort(columns)
        assert own.equals(other)
    finally:
        subprocess.run(["chmod", "-R", "u+w", str(place)], check=False)
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def as_nobody() -> Iterator[None]:
    """As a user to whom a folder's permissions apply: root may write anywhere."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_version_or_a_tag_of_the_owner_is_read(config: Path, tmp_path: Path) -> None:
    table = lancedb.connect(tmp_path / "db.lancedb").open_table("products")
    table.create_index("body", config=FTS())
    table.tags.create("spring", table.version)
    version = table.version
    first, _ = walk_file(config)
    table.update(where="sku = 107", values={"body": "river river river"})
    assert walk_file(config, "documents.version=spring")[0].run_id == first.run_id
    assert walk_file(config, f"documents.version={version}")[0].run_id == first.run_id
    with pytest.raises(MissingResource, match="no tag 'autumn' .*its tags: spring"):
        walk_file(config, "documents.version=autumn")
    with pytest.raises(MissingResource, match="at version 99"):
        walk_file(config, "documents.version=99")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("cleaned up", "was compacted and cleaned up while the run was reading it: version 2"),
        pytest.param("made again", DROPPED, marks=pytest.mark.slow),
        pytest.param("made otherwise", DROPPED, marks=pytest.mark.slow),
    ],
)
def test_a_table_that_is_changed_during_a_run(
    config: Path,
    tmp_path: Path,
    change: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    database = lancedb.connect(tmp_path / "db.lancedb")
    table = database.open_table("products")
    table.create_index("body", config=FTS())
    rows = table.to_arrow()
    undisturbed, counts = walk_file(
        config,
        "search.chunk_queries=1",
        f"database={tmp_path / 'u'}",
        f"documents.database={tmp_path / 'db.lancedb'}",
    )
    search = candidates.search_chunk
    calls: list[int] = []

    def changed_before_the_second(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            if change == "cleaned up":
                table.add(rows.slice(0, 1))
                table.delete("sku = 100")
                table.add(rows.slice(0, 1))
                time.sleep(1.1)
                table.optimize(cleanup_older_than=timedelta(seconds=1))
            else:
                database.drop_table("products")
                other = rows if change == "made again" else rows.slice(0, 39)
                database.create_table("products", other).create_index("body", config=FTS())
        return search(*given)

    monkeypatch.setattr(candidates, "search_chunk", changed_before_the_second)
    with caplog.at_level("WARNING"):
        run, again = walk_file(config, "search.chunk_queries=1")
    if change == "made again":  # the same rows in the same versions: nothing to tell, nothing lost
        assert words not in caplog.text and run.run_id == undisturbed.run_id
        return
    assert words in caplog.text
    assert (run.run_id == undisturbed.run_id) == (change == "cleaned up")
    assert run.results().num_rows == len(database_of(run).read("ranked"))
    if change == "cleaned up":
        assert (again["pairs"], again["scored"]) == (counts["pairs"], counts["scored"])
        assert run.corpus.version > 2
    else:
        assert 0 < again["scored"] <= again["pairs"] + 1


def test_a_table_that_is_dropped_during_a_run(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    database = lancedb.connect(tmp_path / "db.lancedb")
    database.open_table("products").create_index("body", config=FTS())
    search = candidates.search_chunk

    def dropped(*given: Any) -> Any:
        database.drop_table("products")
        return search(*given)

    monkeypatch.setattr(candidates, "search_chunk", dropped)
    with caplog.at_level("WARNING"), pytest.raises(MissingResource, match="no table 'products'"):
        walk_file(config)
    assert "was dropped or renamed while the run was reading it" in caplog.text


UNCARRIED = {
    "wide": pa.array([Decimal(i) for i in range(40)], pa.decimal256(50, 0)),
    "nested": pa.array([[Decimal(i)] for i in range(40)], pa.list_(pa.decimal256(50, 0))),
    "json": pa.array(["{}"] * 40, pa.json_()),
}


@pytest.mark.parametrize("name", UNCARRIED)
def test_a_column_that_results_cannot_carry_is_refused_before_the_search(
    config: Path, tmp_path: Path, name: str
) -> None:
    place = lancedb.connect(tmp_path / "db.lancedb")
    table = place.open_table("products").to_arrow().append_column(name, UNCARRIED[name])
    place.create_table("products", table, mode="overwrite").create_index("body", config=FTS())
    asked = [f"results.columns=[{name}]"]
    with pytest.raises(ConfigError, match=f"cannot carry '{name}' of table 'products'"):
        walk_file(config, *asked)
    assert "searches" not in place.list_tables().tables


def test_texts_beyond_a_batch_are_published_in_parts(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with 50,000 texts of 43 KB, which are more than one Arrow array of strings can hold."""
    from reranking.runs import consumers

    lancedb.connect(tmp_path / "db.lancedb").open_table("products").create_index(
        "body", config=FTS()
    )
    run, _ = walk_file(config)
    place = lancedb.connect(tmp_path / "db.lancedb")
    whole = frame(place.open_table("ranked").to_arrow())
    monkeypatch.setattr("reranking.arrow.BATCH_BYTES", 150)
    sizes = []
    original = consumers._with_columns

    def counted(*given: Any) -> Iterator[pa.RecordBatch]:
        for batch in original(*given):
            sizes.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(consumers, "_with_columns", counted)
    place.drop_table("ranked")
    walk_file(config)
    assert len(sizes) > 5 and sum(sizes) == whole.height
    again = frame(place.open_table("ranked").to_arrow())
    assert_frame_equal(again, whole)
    assert run.results_table in place.list_tables().tables
