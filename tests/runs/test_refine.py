"""Refining: half precision first, float32 where it decides what stands above the cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from configs.blending import Blend
from configs.load import ConfigFault, load_config
from reranking.arrow import frame
from reranking.errors import ConfigError, RuntimeFailure
from reranking.runs.listing import find_run
from reranking.runs.pairs import KEY
from reranking.runs.ranking import rank_results
from reranking.runs.refine import Refiner, margin_of, sample
from reranking.scoring.crossencoder import CrossEncoderModel
from tests.support import tiny
from tests.support.legs import THREE, TYPES, Q, candidates, doc, scores
from tests.support.walk import database_of, walk

HALF = {"rerank__precision": "bfloat16", "rerank__refine": "float32"}


def half_and_exact(**values: tuple[float, float | None]) -> Any:
    """Scores by document: (half, exact)."""
    table = scores(**{name: half for name, (half, _) in values.items()})
    return frame(table).with_columns(
        exact=pl.Series([exact for _, exact in values.values()], dtype=pl.Float32)
    )


def test_exact_logits_rank_above_all_others() -> None:
    given = half_and_exact(a=(1.0, 3.0), b=(2.0, None), c=(0.5, 2.5))
    rows = frame(rank_results(THREE, given.to_arrow(), query_types=TYPES, limit=10))
    assert {t: rows.filter(query_type=t)["doc_id"].to_list() for t in TYPES} == {
        "vector": ["a", "b"],
        "fts": ["c", "b"],
        "hybrid": ["a", "c", "b"],
    }
    hybrid = rows.filter(query_type="hybrid")
    assert hybrid["_relevance_score"].to_list() == [3.0, 2.5, 2.0]


class _Plan:
    """As much of a plan as a ranking needs."""

    def __init__(self, top_k: int, blend: Blend | None = None) -> None:
        from reranking.runs.search import Search

        self.search, self.top_k = Search(query_types=("vector", "fts", "hybrid"), limit=10), top_k
        self.blend = blend


def test_what_is_within_the_margin_of_a_cut_by_hand() -> None:
    from reranking.runs.refine import above_cuts

    legs = [("a", 1, None), ("b", 2, None), ("c", 3, None), ("d", None, 1), ("e", None, 2)]
    known = frame(scores(a=9.0, b=8.0, c=7.9, d=4.0, e=1.0))

    def near(top_k: int, margin: float) -> str:
        found = above_cuts(candidates(*legs), known, _Plan(top_k), margin)  # type: ignore[arg-type]
        return "".join(sorted(h.decode()[0] for h in found["doc_hash"].to_list()))

    assert near(1, 0.0) == "ad"  # the best of the vector leg (and of all), the best of the FTS leg
    assert near(1, 1.0) == "abd"  # b is exactly the margin below a; e is 3 below d
    assert near(2, 0.0) == "abde"
    assert near(2, 0.2) == "abcde"
    assert near(9, 0.0) == "abcde"  # fewer candidates than ranks: all are above the cut


def test_a_blend_decides_what_is_near_the_cut() -> None:
    from reranking.runs.refine import above_cuts

    legs = [("a", 1, None), ("b", 2, None), ("c", 3, None)]  # cosines .9, .8, .7
    known = frame(scores(a=1.0, b=1.5, c=2.0))

    def near(blend: Blend | None) -> str:
        plan: Any = _Plan(1, blend)
        found = above_cuts(candidates(*legs), known, plan, 0.4)
        return "".join(sorted(h.decode()[0] for h in found["doc_hash"].to_list()))

    assert near(None) == "c"  # b is .5 below
    assert near(Blend(vector=10)) == "a"  # 10, 9.5 and 9: b is .5 below again
    assert near(Blend(vector=6)) == "abc"  # 6.4, 6.3 and 6.2


def test_the_margin_is_twice_the_largest_gap() -> None:
    probes = pl.DataFrame({"half": [1.0, 2.0, -3.0], "score": [1.1, 1.75, -3.0]})
    assert margin_of(probes) == pytest.approx(0.5)
    assert margin_of(probes.clear()) == 0.0


def test_the_sample_is_the_same_in_any_order_and_keeps_queries_apart() -> None:
    known = pl.DataFrame(
        {
            "query_hash": [bytes([i // 40]) * 16 for i in range(2400)],
            "doc_hash": [bytes([i % 40]) * 16 for i in range(2400)],
        }
    )
    checked, probes = sample(known)
    assert (checked["query_hash"].n_unique(), len(checked), len(probes)) == (3, 120, 142)
    assert not set(checked["query_hash"]) & set(probes["query_hash"])
    again = sample(known.sample(fraction=1, shuffle=True, seed=3))
    assert again[0].equals(checked)
    assert again[1].equals(probes)
    one = sample(frame(scores(a=1.0, b=2.0)))
    assert [len(part) for part in one] == [2, 2]  # the only query is checked and measured
    assert [len(part) for part in sample(known.clear())] == [0, 0]
    assert doc("a") in one[0]["doc_hash"].to_list()
    assert one[0]["query_hash"].to_list() == [Q, Q]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents and queries."""
    found = tmp_path_factory.mktemp("refine")
    rng = np.random.default_rng(6)
    tiny.write_jsonl(found / "documents.jsonl", tiny.documents(200))
    asked = tiny.queries([tiny.sentence(rng, 2, 6) for _ in range(30)])
    tiny.write_jsonl(found / "queries.jsonl", asked)
    return found


def run(folder: Path, model: Path, database: str, force: bool = False, **changes: Any) -> Any:
    """The plan, the counts and the results of a run in a database of that name."""
    changes = {"search__limit": 40, "search__chunk_queries": 20, "rerank__top_k": 5, **changes}
    path = tiny.write_config(folder, model, database=database, **changes)
    plan, counts = walk(load_config(path), force=force)
    results = frame(database_of(plan).read(plan.results_table))
    return plan, counts, results.sort("query_id", "query_type", "rank")


@pytest.fixture(scope="module")
def runs(folder: Path, cross_encoder: Path) -> dict[str, Any]:
    """The same inputs in float32, in half precision, and refined, each in a database of its own."""
    return {
        "exact": run(folder, cross_encoder, "exact.lancedb"),
        "half": run(folder, cross_encoder, "half.lancedb", rerank__precision="bfloat16"),
        "refined": run(folder, cross_encoder, "refined.lancedb", **HALF),
    }


ORDER = ["query_id", "query_type", "rank", "doc_id"]


def test_the_top_k_is_that_of_float32(runs: dict[str, Any]) -> None:
    exact, half, refined = (runs[name][2] for name in ("exact", "half", "refined"))
    assert not half.select(ORDER).equals(exact.select(ORDER))  # else this would show nothing
    assert refined.select(ORDER).equals(exact.select(ORDER))
    gaps = refined["_relevance_score"] - exact["_relevance_score"]
    assert gaps.abs().max() <= 1e-5


def test_it_reports_what_it_did_and_scores_less_than_everything(runs: dict[str, Any]) -> None:
    plan, counts, _ = runs["refined"]
    row = find_run(database_of(plan), plan.run_id).stored
    assert row["counts"] == counts
    assert 0 < counts["refined"] <= counts["refine_scored"] < counts["pairs"]
    assert counts["refine_margin"] > 0
    assert counts["rankings_checked"] == 2 * 3  # one query of each chunk, three query types
    assert counts["rankings_equal"] == counts["rankings_checked"]
    assert row["reranker"] == runs["half"][0].reranker
    assert row["refiner"] == runs["exact"][0].reranker
    assert plan.run_id not in {runs["half"][0].run_id, runs["exact"][0].run_id}


def test_only_float32_scores_are_published(runs: dict[str, Any]) -> None:
    from reranking.corpus.queries import read_queries
    from reranking.runs.pairs import PairScores

    plan = runs["refined"][0]
    database = database_of(plan)
    hashes = read_queries(database, plan.queries)["text_hash"].to_pylist()
    stored = {
        name: PairScores(database, bytes.fromhex(fingerprint), hashes).known
        for name, fingerprint in (("half", plan.reranker), ("exact", plan.refiner))
    }
    assert len(stored["exact"]) == runs["refined"][1]["refine_scored"]
    assert len(stored["half"]) == runs["refined"][1]["pairs"]
    both = stored["half"].join(stored["exact"], on=KEY, suffix="_exact")
    assert both.filter(pl.col("score") != pl.col("score_exact")).height > 0
    published = set(runs["refined"][2]["_relevance_score"].to_list())
    assert published <= set(stored["exact"]["score"].to_list())


@pytest.mark.slow
def test_a_margin_of_nothing_is_found_out(
    folder: Path, cross_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refining only the top half scores would change places unseen; the checked queries tell."""
    monkeypatch.setattr("reranking.runs.refine.margin_of", lambda probes: 0.0)
    monkeypatch.setattr("reranking.runs.refine._CHECKED_SHARE", 1)
    _, counts, _ = run(folder, cross_encoder, "careless.lancedb", **HALF)
    assert counts["rankings_checked"] == 2 * 8 * 3
    assert counts["rankings_equal"] < counts["rankings_checked"]


def test_nothing_is_scored_twice(
    folder: Path, cross_encoder: Path, monkeypatch: pytest.MonkeyPatch, runs: dict[str, Any]
) -> None:
    def never(model: CrossEncoderModel) -> None:
        raise AssertionError("a stored pair was to be scored again")

    monkeypatch.setattr(CrossEncoderModel, "load", never)
    changes = HALF | {"rerank__return_score": "relevance"}  # another run of the same pairs
    plan, counts, results = run(folder, cross_encoder, "refined.lancedb", **changes)
    assert plan.run_id != runs["refined"][0].run_id
    assert (counts["scored"], counts["refine_scored"]) == (0, 0)
    assert results.select(ORDER).equals(runs["refined"][2].select(ORDER))
    assert counts["rankings_equal"] == counts["rankings_checked"] == 6


def test_an_interrupted_run_goes_on(
    folder: Path, cross_encoder: Path, monkeypatch: pytest.MonkeyPatch, runs: dict[str, Any]
) -> None:
    refine = Refiner.refine_chunk

    def dies(self: Refiner, chunk: int) -> Any:
        if chunk == 1:
            raise RuntimeFailure("power cut")
        return refine(self, chunk)

    with monkeypatch.context() as patched:
        patched.setattr(Refiner, "refine_chunk", dies)
        with pytest.raises(RuntimeFailure, match="power cut"):
            run(folder, cross_encoder, "cut.lancedb", **HALF)
    plan, counts, results = run(folder, cross_encoder, "cut.lancedb", **HALF)
    assert plan.run_id == runs["refined"][0].run_id
    assert counts["scored"] == 0
    assert 0 < counts["refine_scored"] < runs["refined"][1]["refine_scored"]
    assert results.select(ORDER).equals(runs["refined"][2].select(ORDER))


@pytest.mark.slow
def test_a_forced_run_scores_both_again(
    folder: Path, cross_encoder: Path, runs: dict[str, Any]
) -> None:
    _, counts, results = run(folder, cross_encoder, "refined.lancedb", force=True, **HALF)
    assert counts["scored"] == counts["pairs"]
    assert counts["refine_scored"] == runs["refined"][1]["refine_scored"]
    assert results.select(ORDER).equals(runs["refined"][2].select(ORDER))


@pytest.mark.parametrize(
    "changes",
    [
        {"rerank__refine": "float32", "rerank__precision": "float32", "rerank__top_k": 5},
        {"rerank__refine": "float32", "rerank__precision": "bfloat16"},
    ],
)
def test_it_needs_half_precision_and_a_cut(
    tmp_path: Path, cross_encoder: Path, changes: dict[str, Any]
) -> None:
    path = tiny.write_config(tmp_path, cross_encoder, **changes)
    with pytest.raises(ConfigFault, match="give a top_k, and precision bfloat16"):
        load_config(path)


def test_auto_precision_that_is_float32_already_is_refused(
    folder: Path, cross_encoder: Path
) -> None:
    with pytest.raises(ConfigError, match="leave out rerank.refine"):
        changes = HALF | {"rerank__precision": "auto", "rerank__device": "cpu"}
        run(folder, cross_encoder, "auto.lancedb", **changes)
