"""Many workers leave what one process leaves; what a dead worker did not do is done by another."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import reranking.encoding
from configs.load import load_config
from configs.schema import Config
from reranking import chunks as chunks_of_runs
from reranking import order
from reranking.arrow import frame
from reranking.errors import MissingPrerequisite, RuntimeFailure, ToBeContinued
from reranking.pipeline import Pipeline
from reranking.progress import unwatched
from reranking.steps import Here
from reranking.store import Database
from reranking.workers.devices import on_own_devices
from tests.support import tiny
from tests.support.equal import assert_equal
from tests.support.hidden import Hidden
from tests.support.judged import encoder_folder
from tests.support.walk import walk_file

CHUNKS = 5


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> Path:
    """A folder with a config, its files, and the database that one process made of them."""
    folder = tmp_path_factory.mktemp("workers")
    rng = np.random.default_rng(3)
    asked = [tiny.sentence(rng, 1, 5) for _ in range(4 * CHUNKS)]
    encoder = encoder_folder(folder / "encoder", seed=5)
    for name, rows in (("documents", tiny.documents(80)), ("queries", tiny.queries(asked))):
        bare = [{k: v for k, v in row.items() if k != "vector"} for row in rows]
        tiny.write_jsonl(folder / f"{name}.jsonl", bare)
    (folder / "judgments.tsv").write_text("q000 0 d001 2\nq001 0 d003 1\n")
    judged = {"judgment_list": "j", "source": {"format": "trec", "path": "judgments.tsv"}}
    config = tiny.write_config(
        folder,
        cross_encoder,
        documents__encoder={"model": str(encoder)},
        search__chunk_queries=4,
        judgments=judged,
    )
    walk_file(config)
    return folder


def fresh(inputs: Path, folder: Path) -> Path:
    """The config of the same inputs without a database."""
    shutil.copytree(inputs, folder, ignore=shutil.ignore_patterns("*.lancedb"), dirs_exist_ok=True)
    return folder / "config.yaml"


def spread(config: Path, runner: str, *overrides: str) -> dict[str, Any]:
    """The job with two workers of a kind."""
    return job("rescore", config, f"execution.runner={runner}", "execution.workers=2", *overrides)


def config_of(inputs: Path) -> Config:
    return load_config(inputs / "config.yaml")


def job(name: str, config: Path, *overrides: str) -> dict[str, Any]:
    try:
        return order.JOBS[name](Pipeline(load_config(config, overrides), Here(unwatched)))
    except ToBeContinued as stopped:
        return stopped.values


def counts(inputs: Path) -> tuple[int, int]:
    """Rows of `pair_scores` and of `candidates`, those that nobody reads included."""
    database = Database(str(inputs / "db.lancedb"))
    return tuple(database.need(n).count_rows() for n in ("pair_scores", "candidates"))


@pytest.mark.parametrize(
    "runner",
    [
        "threads",
        pytest.param("processes", marks=pytest.mark.slow),
        pytest.param("ray", marks=pytest.mark.cluster),
        pytest.param("dask", marks=pytest.mark.cluster),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_two_workers_leave_what_one_process_leaves(
    inputs: Path, tmp_path: Path, runner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reranking.encoding, "_FEW", 8)
    if runner in ("ray", "dask"):
        pytest.importorskip(
            {"ray": "ray", "dask": "distributed"}[runner],
            reason=f"the extra {runner} is not installed",
        )
    config = fresh(inputs, tmp_path)
    done = spread(config, runner)
    assert_equal(tmp_path / "db.lancedb", inputs / "db.lancedb")
    assert done["scored"] == done["pairs"] > 0 and done["score_path"]
    assert counts(tmp_path) == counts(inputs)  # and nothing was done twice
    assert not spread(config, runner)["computed"]


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["threads", "processes"])
def test_limits_count_what_all_workers_did_and_the_next_start_goes_on(
    inputs: Path, tmp_path: Path, runner: str
) -> None:
    config = fresh(inputs, tmp_path)
    whole = counts(inputs)[0]
    stopped = spread(config, runner, "search.chunk_queries=1", "execution.max_pairs=5")
    assert stopped["status"] == "to be continued" and 5 <= stopped["scored"] < whole
    assert counts(tmp_path)[0] == stopped["scored"]
    assert f"{stopped['scored']} pairs were scored, execution.max_pairs is 5" in stopped["reason"]
    late = spread(config, runner, "search.chunk_queries=1", "execution.max_seconds=0.000001")
    assert "max_seconds" in late["reason"] and late["scored"] == 0
    done = spread(config, runner, "search.chunk_queries=1")
    # Workers that have queries of one text at the same time may both score its pairs.
    assert done["scored"] >= whole - stopped["scored"]
    stored = frame(Database(str(tmp_path / "db.lancedb")).read("pair_scores"))
    assert len(stored.unique(["query_hash", "doc_hash"])) == whole
    assert len(stored) == stopped["scored"] + done["scored"]


def test_documents_are_encoded_by_workers_and_in_order(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reranking.encoding, "_FEW", 8)
    work, parts = reranking.encoding.encode_texts, []

    def seen(job: str, asked: Any, texts: list[str]) -> Any:
        parts.append(len(texts))
        if len(parts) == 1:
            raise Lost("the worker is gone")
        return work(job, asked, texts)

    monkeypatch.setattr(reranking.encoding, "encode_texts", seen)
    options = ["execution.runner=threads", "execution.workers=3"]
    job("ingest", fresh(inputs, tmp_path), *options)
    assert sorted(parts) == sorted([26, 27, 27, parts[0]])  # the lost part twice
    found, wanted = (
        frame(Database(str(folder / "db.lancedb")).read("documents")).sort("doc_id")
        for folder in (tmp_path, inputs)
    )
    assert found["doc_id"].equals(wanted["doc_id"])
    assert np.allclose(found["vector"].to_numpy(), wanted["vector"].to_numpy(), atol=1e-6)


def test_models_that_only_the_driver_has_are_sent_for_both_jobs(
    inputs: Path,
    tmp_path: Path,
    empty_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(reranking.encoding, "_FEW", 8)
    config, hidden = fresh(inputs, tmp_path), Hidden(tmp_path, config_of(inputs), monkeypatch)
    with caplog.at_level("INFO"):
        done = spread(config, "threads", *hidden.overrides)
    assert_equal(tmp_path / "db.lancedb", inputs / "db.lancedb")
    assert done["scored"] == done["pairs"] and hidden.are_gone
    told = [line for line in caplog.messages if line.startswith("sending model")]
    assert len(told) == 2 and all(str(link) in "".join(told) for link in hidden.links)
    assert len(list((empty_cache / "models").glob("sent-*"))) == 2


@pytest.mark.slow
def test_workers_refine_like_one_process(inputs: Path, tmp_path: Path) -> None:
    half = ["rerank.precision=bfloat16", "rerank.refine=float32", "rerank.top_k=3"]
    alone, many = fresh(inputs, tmp_path / "alone"), fresh(inputs, tmp_path / "many")
    one = job("rescore", alone, *half)
    two = spread(many, "threads", *half)
    assert two["refined"] == one["refined"] and one["refined"]["refine_scored"] > 0
    assert_equal(many.parent / "db.lancedb", alone.parent / "db.lancedb")


class Lost(Exception):
    """What is left of a worker that died."""


def lose(monkeypatch: pytest.MonkeyPatch, chunks: dict[int, int]) -> list[int]:
    """Have the chunks' scoring fail so many times, as a worker that dies; the chunks worked on."""
    work, seen = chunks_of_runs.score_chunk, []

    def dying(pipeline: Pipeline, run: Any, chunk: int) -> Any:
        seen.append(chunk)
        if chunks.get(chunk, 0) >= seen.count(chunk):
            raise Lost("the worker is gone")
        return work(pipeline, run, chunk)

    monkeypatch.setattr(chunks_of_runs, "score_chunk", dying)
    return seen


def test_chunks_of_dead_workers_are_worked_on_again(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = lose(monkeypatch, {1: 1, 3: 2})
    spread(fresh(inputs, tmp_path), "threads")
    assert sorted(seen) == [0, 1, 1, 2, 3, 3, 3, 4]
    assert_equal(tmp_path / "db.lancedb", inputs / "db.lancedb")
    assert counts(tmp_path) == counts(inputs)


def test_a_deadly_chunk_ends_the_run_and_the_next_one_goes_on(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = fresh(inputs, tmp_path)
    with monkeypatch.context() as patch:
        lose(patch, {2: 99})
        with pytest.raises(RuntimeFailure, match="1 of 5 chunks could not be done.*worker is gone"):
            spread(config, "threads")
    seen = lose(monkeypatch, {})
    done = spread(config, "threads")
    assert sorted(seen) == list(range(CHUNKS)) and 0 < done["scored"] < done["pairs"]
    assert_equal(tmp_path / "db.lancedb", inputs / "db.lancedb")


def test_a_lacking_extra_is_named(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingPrerequisite, match=r"pip install 'rescore\[ray\]'"):
        spread(fresh(inputs, tmp_path), "ray")


def test_each_process_has_gpus_of_its_own(inputs: Path) -> None:
    config = load_config(inputs / "config.yaml", ["execution.gpus_per_worker=2"])

    def device(number: int | None, present: int, *overrides: str) -> Any:
        given = load_config(inputs / "config.yaml", ["execution.gpus_per_worker=2", *overrides])
        return on_own_devices(given, number, present).rerank.device

    assert device(0, 4) == ["cuda:0", "cuda:1"]
    assert device(1, 4) == ["cuda:2", "cuda:3"]
    assert device(2, 4) == ["cuda:0", "cuda:1"]  # more workers than GPUs share them
    assert device(1, 1) == "cuda:0"
    assert device(1, 0) is None
    assert device(1, 4, "rerank.device=cpu") == "cpu"
    assert device(1, 4, "execution.gpus_per_worker=0") is None
    assert on_own_devices(config) == config  # no worker at all
