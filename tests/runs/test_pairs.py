"""Scores that are no finite numbers: never stored, never read, never published."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from configs.load import load_config
from reranking.errors import RuntimeFailure
from reranking.runs.pairs import Commits, PairScores
from reranking.store import Database
from reranking.upkeep.tidy import tidy_scores
from tests.support import tiny
from tests.support.walk import walk

ODD = [float("nan"), float("inf"), float("-inf")]


def pairs(*scores: float) -> pl.DataFrame:
    """Pairs of one query text with a score each."""
    return pl.DataFrame(
        {
            "query_hash": [b"q" * 16] * len(scores),
            "doc_hash": [bytes([i]) * 16 for i in range(len(scores))],
            "doc_id": [f"d{i}" for i in range(len(scores))],
            "score": pl.Series(scores, dtype=pl.Float32),
        }
    )


def foreign_rows(folder: Path, rows: pl.DataFrame) -> None:
    """Append rows as a writer does that does not look at what it writes."""
    marks = pa.array([b"r" * 16] * len(rows), pa.binary(16))
    table = lancedb.connect(folder).open_table("pair_scores")
    columns = {"epoch": pl.lit(0, pl.Int32), "tokens": pl.lit(None, pl.Int32)}
    data = rows.drop("doc_id").with_columns(**columns).to_arrow()
    table.add(data.append_column("reranker", marks).select(table.schema.names).cast(table.schema))


@pytest.mark.parametrize("odd", ODD)
def test_what_is_not_finite_is_counted_named_and_not_stored(tmp_path: Path, odd: float) -> None:
    store = PairScores(Database(str(tmp_path)), b"r" * 16, [b"q" * 16])
    with pytest.raises(RuntimeFailure, match="gave 1 of 3 pairs .* for document 'd1'"):
        store.add(pairs(1.0, odd, 2.0), 0)
    again = PairScores(Database(str(tmp_path)), b"r" * 16, [b"q" * 16])
    for known in (store, again):
        assert sorted(known.of(pairs(0, 0, 0).drop("score"))["score"]) == [1.0, 2.0]


@pytest.mark.parametrize("odd", ODD)
def test_stored_rows_that_are_not_finite_are_ignored_and_scored_again(
    tmp_path: Path, odd: float, caplog: pytest.LogCaptureFixture
) -> None:
    database = Database(str(tmp_path))
    PairScores(database, b"r" * 16, []).add(pairs(1.0), 0)
    foreign_rows(tmp_path, pairs(1.0, odd)[1:])
    with caplog.at_level(logging.WARNING):
        store = PairScores(database, b"r" * 16, [b"q" * 16])
    assert "1 scores of reranker 72727272" in caplog.text
    missing = store.missing(pairs(0, 0))
    assert missing["doc_id"].to_list() == ["d1"]
    store.add(missing.with_columns(score=pl.lit(3.0, pl.Float32)), 0)
    # A tidier keeps the earliest row of a pair, but not one that no reader takes.
    assert (tidy_scores(database).unwanted, database.need("pair_scores").count_rows()) == (1, 2)
    known = PairScores(database, b"r" * 16, [b"q" * 16]).of(pairs(0, 0).drop("score"))
    assert known["score"].to_list() == [1, 3]


def test_a_run_whose_stored_scores_were_made_nan_publishes_the_models(
    tmp_path: Path, cross_encoder: Path
) -> None:
    tiny.write_jsonl(tmp_path / "documents.jsonl", tiny.documents(30))
    tiny.write_jsonl(tmp_path / "queries.jsonl", tiny.queries(["river stone", "paper lamp"]))
    config = load_config(tiny.write_config(tmp_path, cross_encoder))
    run, counts = walk(config)
    before = run.results().sort_by("doc_id")["_relevance_score"]
    copy = tmp_path / "copy"  # another database, of which this process remembers nothing
    shutil.copytree(config.database, copy)
    table = lancedb.connect(copy).open_table("pair_scores")
    table.update(values_sql={"score": "CAST('NaN' AS FLOAT)"})
    Database(str(copy)).drop(run.results_table)
    again, repeated = walk(config.model_copy(update={"database": str(copy)}))
    assert again.run_id == run.run_id and repeated["scored"] == counts["scored"] > 0
    scores = again.results().sort_by("doc_id")["_relevance_score"]
    assert pc.all(pc.is_finite(scores)).as_py()
    assert np.allclose(sorted(scores.to_pylist()), sorted(before.to_pylist()), atol=1e-5)


def test_a_batch_that_is_cut_short_by_a_signal_keeps_none_of_the_others_from_being_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = PairScores(Database(str(tmp_path)), b"r" * 16, [b"q" * 16])
    commits = Commits(store, pairs(0, 0, 0).drop("score"), 0, seconds=100.0)
    commits.add(np.array([0, 1]), np.array([1.0, 2.0], np.float32), np.array([3, 4]))

    def stopped(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pl, "Series", stopped)
        commits.add(np.array([2]), np.array([5.0], np.float32), np.array([6]))
    commits.flush()
    assert sorted(store.of(pairs(0, 0, 0).drop("score"))["score"]) == [1.0, 2.0]
