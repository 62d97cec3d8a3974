"""Doctor and dry run: what is wrong is said with its exit code, and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
import pytest
from lancedb.index import FTS
from typer.testing import CliRunner

from flows.cli import app
from tests.support import tiny
from tests.support.walk import walk_file


@pytest.fixture
def config(tmp_path: Path, cross_encoder: Path) -> Path:
    tiny.write_jsonl(tmp_path / "documents.jsonl", tiny.documents())
    asked = tiny.queries([tiny.WORDS[i % 25] for i in range(40)])
    tiny.write_jsonl(tmp_path / "queries.jsonl", asked)
    return tiny.write_config(tmp_path, cross_encoder)


def doctor(config: Path, *changes: str) -> tuple[int, dict[str, Any]]:
    options = [part for change in changes for part in ("--set", change)]
    result = CliRunner().invoke(app, ["doctor", str(config), "--json", *options])
    return result.exit_code, json.loads(result.stdout.splitlines()[-1])


def files(folder: Path) -> set[str]:
    return {str(p) for p in folder.rglob("*")}


def test_before_the_first_ingest_all_is_well(config: Path) -> None:
    before = files(config.parent)
    code, values = doctor(config)
    assert code == 0
    found = {f["what"]: f["detail"] for f in values["findings"]}
    assert "will be made" in found["database"]
    assert "not ingested yet" in found["documents"]
    assert found["queries"] == "40 queries"
    assert values["estimate"] is None and "no database" in values["estimate_not_possible"]
    assert files(config.parent) == before


@pytest.mark.slow
def test_the_estimate_is_near_what_the_run_then_does(config: Path) -> None:
    walk_file(config, "search.limit=3")
    before = files(config.parent)
    result = CliRunner().invoke(
        app, ["run", str(config), "--dry-run", "--json", "--set", "search.limit=6"]
    )
    assert result.exit_code == 0, result.output
    estimate = json.loads(result.stdout.splitlines()[-1])
    assert files(config.parent) == before
    _, counts = walk_file(config, "search.limit=6")
    assert estimate["sampled"] == 5
    assert estimate["queries"] == counts["queries"] == 40
    assert estimate["pairs"] == pytest.approx(counts["pairs"], rel=0.35)
    assert estimate["to_score"] == pytest.approx(counts["scored"], rel=0.5)
    assert estimate["pairs_per_second"] > 0
    code, values = doctor(config, "search.limit=6")
    assert code == 0
    assert values["estimate"]["to_score"] == 0 and values["estimate"]["hours"] is None


@pytest.mark.parametrize(
    ("change", "what", "code"),
    [
        ("rerank.model_name=./nowhere", "config and models", 3),
        ("rerank.device=nonsense", "device", 2),
        ("queries.source.path=nowhere.jsonl", "queries", 4),
        ("documents={table: nothing, managed: false}", "documents", 4),
    ],
)
def test_what_is_wrong_is_found(config: Path, change: str, what: str, code: int) -> None:
    walk_file(config)
    exit_code, values = doctor(config, change)
    wrong = {f["what"]: f["code"] for f in values["findings"] if f["code"]}
    assert wrong[what] == code
    assert set(wrong) <= {what, "config and models"}  # the device decides the dtype, too
    assert exit_code == code


def test_all_faults_are_found_at_once_and_the_worst_code_wins(config: Path) -> None:
    walk_file(config)
    code, values = doctor(
        config, "rerank.model_name=./nowhere", "queries.source.path=nowhere.jsonl"
    )
    assert sum(f["code"] != 0 for f in values["findings"]) == 2
    assert code == 4


def test_a_broken_table_is_found(config: Path) -> None:
    run, _ = walk_file(config)
    folder = Path(run.database.uri) / f"{run.results_table}.lance" / "_versions"
    for manifest in folder.iterdir():
        manifest.write_bytes(b"not a manifest")
    code, values = doctor(config)
    assert code == 4
    found = next(f for f in values["findings"] if f["what"] == "database")
    assert run.results_table in found["detail"]


def foreign(folder: Path, **changes: Any) -> dict[str, Any]:
    """A table `products` of somebody else's with an FTS index; the part of the config for it."""
    rows = tiny.documents(30)
    data = {"sku": [r["doc_id"] for r in rows], "body": [r["text"] for r in rows]} | changes
    vectors = [r["vector"] for r in rows]
    vectors[7] = None
    schema = pa.schema(
        [
            ("sku", pa.string()),
            ("body", pa.string()),
            ("vector", pa.list_(pa.float32(), tiny.WIDTH)),
        ]
    )
    table = lancedb.connect(folder).create_table("products", schema=schema)
    table.add(pa.table({**data, "vector": vectors}, schema=schema))
    table.create_index("body", config=FTS())
    return {"table": "products", "managed": False, "id": "sku", "text": "body"}


def looked_at(config: Path, documents: dict[str, Any], *changes: str) -> dict[str, tuple[int, str]]:
    _, values = doctor(config, f"documents={json.dumps(documents)}", *changes)
    return {f["what"]: (f["code"], f["detail"]) for f in values["findings"]}


def test_somebody_elses_table_is_looked_through(config: Path, tmp_path: Path) -> None:
    shop = tmp_path / "shop.lancedb"
    documents = foreign(shop, body=["", None, *["river"] * 28]) | {"database": str(shop)}
    lancedb.connect(shop).open_table("products").add([{"sku": "new", "body": "stone"}])
    before = files(tmp_path)
    seen = looked_at(config, documents, "results.publish=ranked")
    assert all(code == 0 for code, _ in seen.values()), seen
    assert "31 documents in 'products'" in seen["documents"][1]
    assert seen["ids"] == (0, "29 ids, each once")
    assert seen["texts and vectors"][1] == (
        "2 rows without text are left out; 2 have no vector: words find them"
    )
    assert "FTS on body; none on vector: searched exactly" in seen["indexes"][1]
    assert "body_idx lacks 1 rows" in seen["indexes"][1]
    assert seen["encoder"][1] == "none: queries bring their vectors"
    assert seen["table for consumers"][1].endswith("db.lancedb, which will be made")
    assert files(tmp_path) == before


def test_what_a_run_would_refuse_is_found(config: Path, tmp_path: Path) -> None:
    shop = tmp_path / "shop.lancedb"
    documents = foreign(shop, sku=["a"] * 30) | {"database": str(shop)}
    queries = [{"query_id": "q", "text": "river"}]
    tiny.write_jsonl(tmp_path / "queries.jsonl", queries)
    seen = looked_at(config, documents)
    assert {what: code for what, (code, _) in seen.items() if code} == {"ids": 5, "encoder": 5}
    assert "1 ids that stand more than once (in 30 rows), e.g. 'a'" in seen["ids"][1]
    assert "1 queries have no vector" in seen["encoder"][1]
    gone = looked_at(config, documents | {"version": "spring"})
    assert gone["documents"][0] == 4 and "no tag 'spring'" in gone["documents"][1]
    assert gone["indexes"] == (0, "documents come first")
