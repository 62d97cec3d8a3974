"""What an index loses is measured, mended where it can be, and said where it cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from configs.load import load_config
from flows.cli import app
from reranking import order
from reranking.corpus import indexes
from reranking.corpus.indexes import vector_index
from reranking.errors import GateFailed
from reranking.pipeline import Pipeline
from reranking.progress import unwatched
from reranking.report.collect import facts
from reranking.runs import plan as planning
from reranking.runs.candidates import candidates_of
from reranking.runs.recall import _raised, recall_of
from reranking.runs.run import Run
from reranking.steps import Here
from reranking.upkeep.retention import drop_search
from tests.support import tiny
from tests.support.walk import walk_file

WIDTH, LIMIT = 32, 10
PQ = {"type": "IVF_PQ", "num_sub_vectors": 4}


def unit(count: int, seed: int) -> list[list[float]]:
    vectors = np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)
    return [[float(v) for v in row / np.linalg.norm(row)] for row in vectors]


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Documents in all directions, which four sub-vectors of eight bits hardly tell apart."""
    documents = [{"doc_id": f"d{i:03d}", "text": f"n{i}", "vector": v} for i, v in both()[0]]
    queries = [{"query_id": f"q{i:02d}", "text": f"n{i}", "vector": v} for i, v in both()[1]]
    tiny.write_jsonl(tmp_path / "documents.jsonl", documents)
    tiny.write_jsonl(tmp_path / "queries.jsonl", queries)
    return tmp_path


def both() -> tuple[list[tuple[int, list[float]]], list[tuple[int, list[float]]]]:
    return list(enumerate(unit(600, 1))), list(enumerate(unit(30, 2)))


def settings(world: Path, index: dict[str, Any] | None, **changes: Any) -> Path:
    given = {"rerank": None, "search__query_types": ["vector"], "search__limit": LIMIT}
    given |= {} if index is None else {"documents__vector_index": index}
    return tiny.write_config(world, world, **given | changes)


def share_of_exact(run: Run) -> float:
    """Of LanceDB's own exact hits, the share that the run's candidates are."""
    table = lancedb.connect(run.database.uri).open_table("documents")
    rows = candidates_of(run, 0).to_pylist()
    found = {(r["query_id"], r["doc_id"]) for r in rows}
    right = 0
    for i, vector in both()[1]:
        query = table.search(vector, vector_column_name="vector").distance_type("cosine")
        hits = query.bypass_vector_index().limit(LIMIT).select(["doc_id", "_distance"]).to_list()
        right += sum((f"q{i:02d}", hit["doc_id"]) in found for hit in hits)
    return right / (LIMIT * len(both()[1]))


def test_an_index_that_loses_hits_is_searched_so_that_it_does_not(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = settings(world, PQ)
    run, _ = walk_file(path)
    recall = recall_of(run.database, run.search_id)
    assert recall is not None and recall.recall_before < 0.9 < 0.95 <= recall.recall
    assert recall.found == {"refine_factor": run.search.refine_factor}
    assert share_of_exact(run) == pytest.approx(recall.recall)
    assert "with refine_factor" in facts(run).provenance["recall of the vector index"]
    shown = CliRunner().invoke(app, ["show", run.run_id[:8], "--config", str(path)])
    assert f"{recall.recall:.3f} of the first 10 on 30 queries" in shown.stdout
    by_hand, counts = walk_file(path, f"search.refine_factor={run.search.refine_factor}")
    assert (by_hand.run_id, counts) == (run.run_id, {})  # what was found names the search
    as_set, _ = walk_file(path, "search.min_recall=null")
    assert as_set.search_id != run.search_id and share_of_exact(as_set) < 0.9

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(planning, "measure_recall", refuse)
    again, counts = walk_file(path)
    assert (again.run_id, counts) == (run.run_id, {})
    drop_search(run.database, run.search_id)
    assert recall_of(run.database, run.search_id) is None


def test_an_index_that_finds_enough_is_the_search_it_always_was(world: Path) -> None:
    path = settings(world, {"type": "IVF_FLAT"})
    run, _ = walk_file(path)
    recall = recall_of(run.database, run.search_id)
    assert recall is not None and not recall.found and recall.recall >= 0.95
    assert walk_file(path, "search.min_recall=null")[0].search_id == run.search_id


def test_a_search_that_is_set_to_lose_hits_is_refused_and_says_so(world: Path) -> None:
    path = settings(world, PQ, search__refine_factor=1)
    pipeline = Pipeline(load_config(path), Here(unwatched))
    summary = order.rescore(pipeline)
    values = summary.as_dict()
    with pytest.raises(GateFailed, match="set search.bypass_vector_index, or lower"):
        order.refuse_failed(values)
    assert values["recall"]["recall"] < 0.95 and values["recall"]["found"] == {}
    row = Run.of_row(pipeline.database, pipeline.stored_run().stored).stored
    assert (row["status"], row["counts"]["gates_failed"]) == ("done", 1)
    done = CliRunner().invoke(app, ["run", str(path), "--json"])
    assert done.exit_code == 1 and "search.min_recall is 0.95" in done.stderr, done.output
    done = CliRunner().invoke(app, ["run", str(path), "--set", "search.min_recall=0.3"])
    assert done.exit_code == 0 and "recall of the vector index" in done.stdout, done.output


def test_auto_is_exact_for_few_rows_and_for_an_index_that_finds_too_little(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, _ = walk_file(settings(world, None))
    auto = settings(world, {"type": "auto", "num_partitions": 8})
    few, counts = walk_file(auto)
    assert (few.run_id, counts) == (exact.run_id, {})
    monkeypatch.setattr(indexes, "AUTO_ROWS", 500)
    many, _ = walk_file(auto)
    index = vector_index(many.database.need("documents"), "vector")
    assert index is not None and index["type"] == "IvfSq"
    recall = recall_of(many.database, many.search_id)
    assert recall is not None and recall.recall >= 0.95
    fixed, counts = walk_file(auto, "search.refine_factor=1", "search.nprobes=1")
    assert fixed.search.bypass_vector_index and fixed.search_id == exact.search_id
    assert (fixed.run_id, counts) == (exact.run_id, {})
    assert share_of_exact(fixed) == 1.0


def test_an_index_of_somebody_elses_table_is_measured_too(world: Path) -> None:
    rows = [{"sku": f"d{i:03d}", "body": f"n{i}", "v": v} for i, v in both()[0]]
    kinds = {"sku": pa.string(), "body": pa.string(), "v": pa.list_(pa.float32(), WIDTH)}
    database = lancedb.connect(world / "db.lancedb")
    table = database.create_table("theirs", pa.Table.from_pylist(rows, pa.schema(kinds)))
    config = lancedb.index.IvfPq(distance_type="cosine", num_sub_vectors=4)
    table.create_index("v", config=config)
    version = table.version
    theirs = {"table": "theirs", "managed": False, "id": "sku", "text": "body", "vector": "v"}
    run, _ = walk_file(settings(world, None, documents=theirs))
    recall = recall_of(run.database, run.search_id)
    assert recall is not None and recall.recall_before < 0.95 <= recall.recall
    assert database.open_table("theirs").version == version


def test_settings_are_raised_together_where_none_helps_alone() -> None:
    def recall(settings: dict[str, int]) -> float:
        return 1.0 if min(settings.get("nprobes", 20), settings.get("ef", 15)) >= 60 else 0.5

    assert _raised(recall, 0.5, 0.95, {"nprobes": 64, "ef": 60}, 20) == (
        {"nprobes": 64, "ef": 60},
        1.0,
    )
    assert _raised(lambda _: 0.5, 0.5, 0.95, {"nprobes": 40}, 20) == ({}, 0.5)
