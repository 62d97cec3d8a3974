"""Same model, same candidates: our results are those of LanceDB's own CrossEncoderReranker.

For each query type and return_score our rows are compared with
`table.search(...).limit(k).rerank(CrossEncoderReranker(...))` on the same table and model.
Documents that tie with the last one of a leg may be others in LanceDB, which cuts a tie anywhere;
such documents, and only those, are allowed to differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from lancedb.query import MatchQuery
from lancedb.rerankers import RRFReranker

from configs.blending import Blend
from configs.documents import Encoder
from configs.load import load_config
from reranking.arrow import frame
from reranking.corpus.queries import read_queries
from reranking.errors import ConfigError
from reranking.reranker import CrossEncoderReranker as DropIn
from reranking.runs.candidates import candidates_of
from reranking.runs.pairs import PairScores
from reranking.runs.ranking import rank_results
from reranking.runs.run import Run
from reranking.store import Database
from tests.conftest import real_data
from tests.support import tiny
from tests.support.oracle import CELLS, COLUMNS, Oracle, compare
from tests.support.walk import database_of, walk

EDGE_CASES = {
    "empty": "",
    "white space": " \t ",
    "stop words only": "the of and",
    "operators": "river AND (stone OR -bridge) title:lamp ca* winter~2",
    "apostrophe": "river's stone",
    "quoted": '"river stone"',
    "newline": "river\nstone",
    "no such word": "zyzzyva",
    "other script": "日本語 文档",
    "emoji": "🦊 river",
    "very long": "river stone bridge " * 200,
    "long word": "x" * 5000,
    "sql": "'; DROP TABLE documents; --",
}
# Where LanceDB itself raises, we give what the leg that can answer gives.
LANCEDB_RAISES = {
    ("empty", "hybrid"): "sync hybrid search raises ValueError for an empty text",
    ("quoted", "fts"): "a text in double quotes is a phrase query; it needs stored positions",
    ("quoted", "hybrid"): "as for fts",
}


def _run(folder: Path, model: Path | str, **changes: Any) -> Run:
    path = tiny.write_config(folder, Path(model), **{"search__chunk_queries": 7} | changes)
    return walk(load_config(path))[0]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> dict[str, Run]:
    """One run per return_score over a fixture with edge-case queries."""
    folder = tmp_path_factory.mktemp("oracle")
    rng = np.random.default_rng(5)
    texts = [*EDGE_CASES.values(), *(tiny.sentence(rng, 1, 6) for _ in range(25))]
    tiny.write_jsonl(folder / "documents.jsonl", tiny.documents(150))
    tiny.write_jsonl(folder / "queries.jsonl", tiny.queries(texts))
    return {s: _run(folder, cross_encoder, rerank__return_score=s) for s in ("relevance", "all")}


@pytest.fixture(scope="module")
def oracles(runs: dict[str, Run], cross_encoder: Path) -> dict[str, Oracle]:
    """LanceDB's answers on the tables of the runs."""
    found = {}
    for return_score, run in runs.items():
        stored = read_queries(database_of(run), run.queries).to_pylist()
        vectors = {r["query_id"]: np.array(r["vector"], np.float32) for r in stored}
        found[return_score] = Oracle(run, str(cross_encoder), vectors)
    return found


@pytest.mark.parametrize(("query_type", "return_score"), CELLS)
def test_a_cell_equals_lancedb(
    runs: dict[str, Run], oracles: dict[str, Oracle], query_type: str, return_score: str
) -> None:
    run, oracle = runs[return_score], oracles[return_score]
    results = frame(database_of(run).read(run.results_table))
    wanted = COLUMNS[query_type] if return_score == "all" else []
    names = list(EDGE_CASES)
    exact = 0
    for row in read_queries(database_of(run), run.queries).to_pylist():
        number = int(row["query_id"][1:])
        case = names[number] if number < len(names) else None
        mine = results.filter(query_type=query_type, query_id=row["query_id"]).sort("rank")
        loose = oracle.loose(row["query_id"], row["text"])
        legs = ("vector", "fts") if query_type == "hybrid" else (query_type,)
        free = set().union(*(loose[leg] for leg in legs))
        if (case, query_type) in LANCEDB_RAISES:
            with pytest.raises((ValueError, RuntimeError)):
                oracle.answer(row["query_id"], row["text"], query_type, return_score)
            _assert_documented(results, row["query_id"], case, query_type, oracle, row["text"])
            continue
        theirs = oracle.answer(row["query_id"], row["text"], query_type, return_score)
        assert set(wanted) <= set(mine.columns)
        compare(mine, theirs, query_type, free, run.search.limit)
        exact += not free
    assert exact >= 20  # most queries leave LanceDB no choice, and were compared in full


def _assert_documented(
    results: pl.DataFrame, query_id: str, case: str, query_type: str, oracle: Oracle, text: str
) -> None:
    mine = results.filter(query_type=query_type, query_id=query_id)
    if case == "empty":  # no word to look for: what the vector leg finds, reranked
        legs = results.filter(query_type="vector", query_id=query_id)
        assert mine["doc_id"].to_list() == legs["doc_id"].to_list()
    else:  # the words without their quotes, in any order
        found = oracle.table.search(MatchQuery(text, "text"), query_type="fts").limit(1000)
        expected = set(found.to_arrow()["doc_id"].to_pylist())
        limit = oracle.run.search.limit
        fts = results.filter(query_type="fts", query_id=query_id)["doc_id"].to_list()
        assert set(fts) <= expected and len(fts) == min(limit, len(expected)) > 0
        if query_type == "hybrid":  # the best of both legs' documents
            legs = results.filter(pl.col("query_type") != "hybrid", query_id=query_id)
            best = legs.unique("doc_id").sort("_relevance_score", descending=True).head(limit)
            assert mine["_relevance_score"].to_list() == best["_relevance_score"].to_list()
            assert set(mine["doc_id"]) <= set(legs["doc_id"])
        else:
            assert mine["doc_id"].to_list() == fts


def test_columns_are_exactly_those_asked_for(runs: dict[str, Run]) -> None:
    base = ["query_id", "query_type", "rank", "doc_id", "_relevance_score"]
    for return_score, run in runs.items():
        table = database_of(run).need(run.results_table)
        extra = ["_distance", "_score"] if return_score == "all" else []
        assert table.schema.names == base + extra
    rows = frame(database_of(runs["all"]).read(runs["all"].results_table))
    assert rows.filter(query_type="vector")["_score"].null_count() == len(
        rows.filter(query_type="vector")
    )
    assert rows.filter(query_type="fts")["_distance"].is_null().all()
    hybrid = rows.filter(query_type="hybrid")
    assert not (hybrid["_distance"].is_null() & hybrid["_score"].is_null()).any()


@pytest.mark.parametrize(("query_type", "return_score"), CELLS)
def test_the_drop_in_equals_lancedb(
    runs: dict[str, Run],
    oracles: dict[str, Oracle],
    cross_encoder: Path,
    query_type: str,
    return_score: str,
) -> None:
    run, oracle = runs[return_score], oracles[return_score]
    theirs = oracle.rerankers[return_score]
    ours = DropIn(str(cross_encoder), return_score=return_score)
    for row in read_queries(database_of(run), run.queries).to_pylist()[:30]:
        names = list(EDGE_CASES)
        number = int(row["query_id"][1:])
        case = names[number] if number < len(names) else None
        if (case, query_type) in LANCEDB_RAISES:
            continue
        answers = []
        for reranker in (ours, theirs):
            oracle.rerankers[return_score] = reranker
            answers.append(oracle.answer(row["query_id"], row["text"], query_type, return_score))
        assert set(answers[0].columns) == set(answers[1].columns)
        compare(answers[0], answers[1], query_type, set(), run.search.limit)
    oracle.rerankers[return_score] = theirs


def inner_ties(found: pl.DataFrame, query_id: str) -> set[str]:
    """Documents of equal scores in a leg: LanceDB ranks them in any order, we by their ids."""
    rows = found.filter(query_id=query_id)
    tied = [
        rows.filter(pl.col(value).is_not_null() & pl.col(value).is_duplicated())["doc_id"]
        for value in ("_distance", "_score")
    ]
    return set(pl.concat(tied))


def test_the_first_stage_of_hybrid_search_equals_lancedb(
    runs: dict[str, Run], oracles: dict[str, Oracle]
) -> None:
    """Scores equal those of LanceDB's RRFReranker, and so does the order where scores differ."""
    run, oracle = runs["relevance"], oracles["relevance"]
    chunks = [candidates_of(run, chunk) for chunk in run.chunks]
    first = frame(
        rank_results(pa.concat_tables(chunks), None, query_types=["hybrid"], limit=run.search.limit)
    )
    theirs, oracle.rerankers["relevance"] = oracle.rerankers["relevance"], RRFReranker()
    found = frame(pa.concat_tables(chunks))
    exact = 0
    for row in run.query_rows.to_pylist()[len(EDGE_CASES) :]:
        loose = oracle.loose(row["query_id"], row["text"])
        answer = oracle.answer(row["query_id"], row["text"], "hybrid", "relevance")
        mine = first.filter(query_id=row["query_id"])
        scores = answer["_relevance_score"].to_list()
        ties = inner_ties(found, row["query_id"])
        free = loose["vector"] | loose["fts"] | ties
        if not free:
            assert mine["_relevance_score"].to_list() == scores  # bit for bit
        sure = [
            [
                (d, s)
                for d, s in t.select("doc_id", "_relevance_score").iter_rows()
                if d not in free and s > scores[-1]
            ]
            for t in (mine, answer)
        ]
        assert dict(sure[0]) == dict(sure[1])
        assert [s for _, s in sure[0]] == [s for _, s in sure[1]]
        exact += len(sure[0])
    oracle.rerankers["relevance"] = theirs
    assert exact >= 60


@pytest.mark.parametrize(
    "blend",
    [
        Blend(vector=3, fts=2, scale="min-max"),
        pytest.param(Blend(method="ranks", vector=1, fts=1), marks=pytest.mark.slow),
    ],
)
def test_the_drop_in_blends_as_the_run_does(
    runs: dict[str, Run], oracles: dict[str, Oracle], cross_encoder: Path, blend: Blend
) -> None:
    run, oracle = runs["all"], oracles["all"]
    database = run.database.uri
    online = DropIn(str(cross_encoder), return_score="all", database=database, blend=blend)
    scores = PairScores(
        run.database, bytes.fromhex(str(run.reranker)), run.query_rows["text_hash"].to_pylist()
    )
    chunks = [candidates_of(run, chunk) for chunk in run.chunks]
    found = frame(pa.concat_tables(chunks))
    known = scores.known.select("query_hash", "doc_hash", "score").to_arrow()
    ranked = frame(
        rank_results(
            pa.concat_tables(chunks),
            known,
            query_types=run.search.query_types,
            limit=run.search.limit,
            return_score="all",
            blend=blend,
        )
    )
    theirs, oracle.rerankers["all"] = oracle.rerankers["all"], online
    exact = 0
    for row in read_queries(database_of(run), run.queries).to_pylist()[len(EDGE_CASES) :]:
        loose = oracle.loose(row["query_id"], row["text"])
        for query_type in ("vector", "fts", "hybrid"):
            legs = ("vector", "fts") if query_type == "hybrid" else (query_type,)
            mine = ranked.filter(query_type=query_type, query_id=row["query_id"])
            if set().union(*(loose[leg] for leg in legs)):
                continue
            answer = oracle.answer(row["query_id"], row["text"], query_type, "all")
            ties = inner_ties(found, row["query_id"]) if blend.method == "ranks" else set()
            mine, answer = (t.filter(~pl.col("doc_id").is_in(ties)) for t in (mine, answer))
            compare(mine, answer, query_type, ties, run.search.limit)
            exact += 1
    oracle.rerankers["all"] = theirs
    assert exact >= 20


def test_the_drop_in_refuses_scores_that_lancedb_rescaled(
    cross_encoder: Path, oracles: dict[str, Oracle]
) -> None:
    oracle, online = oracles["all"], DropIn(str(cross_encoder), blend={"vector": 10})
    theirs, oracle.rerankers["all"] = oracle.rerankers["all"], online
    with pytest.raises(ConfigError, match="rescales both legs' scores .* scale 'min-max'"):
        oracle.answer("q013", "river stone", "hybrid", "all")
    assert len(oracle.answer("q013", "river stone", "vector", "all"))
    oracle.rerankers["all"] = theirs
    with pytest.raises(ConfigError, match="blend adds nothing"):
        DropIn(str(cross_encoder), blend={"vector": 0})


def test_the_drop_in_shares_the_stored_scores_of_the_run(
    runs: dict[str, Run], oracles: dict[str, Oracle], cross_encoder: Path
) -> None:
    class Raises:
        def score(self, *_: Any) -> Any:
            raise AssertionError("a stored pair was scored again")

    run, oracle = runs["all"], oracles["all"]
    online = DropIn(str(cross_encoder), return_score="all", database=run.database.uri)
    online.__dict__["scorer"] = Raises()
    results = frame(database_of(run).read(run.results_table))
    theirs, oracle.rerankers["all"] = oracle.rerankers["all"], online
    row = read_queries(database_of(run), run.queries).to_pylist()[-1]
    found = oracle.answer(row["query_id"], row["text"], "vector", "all")
    oracle.rerankers["all"] = theirs
    mine = results.filter(query_type="vector", query_id=row["query_id"])
    assert len(found) == len(mine) > 0
    both = mine.join(found, on="doc_id", suffix="_online")
    assert (both["_relevance_score"] == both["_relevance_score_online"]).all()


def test_the_drop_in_stores_what_it_scores(tmp_path: Path, cross_encoder: Path) -> None:
    database = str(tmp_path / "scores")
    rows = pa.table({"text": ["river", "stone", "river"], "_distance": [0.1, 0.2, 0.3]})
    first = DropIn(str(cross_encoder), database=database).rerank_vector("lamp", rows)
    assert Database(database).need("pair_scores").count_rows() == 2
    again = DropIn(str(cross_encoder), database=database)
    assert again.rerank_vector("lamp", rows).equals(first)
    assert "scorer" not in again.__dict__  # the model was not even loaded


def _scifact(folder: Path, documents: int, queries: int) -> None:
    import json

    data = real_data("scifact")
    lines = (data / "corpus.jsonl").read_text("utf-8").splitlines()
    short = sorted((line for line in lines), key=len)[:documents]
    (folder / "documents.jsonl").write_text(
        "".join(json.dumps({**json.loads(s), "metadata": None}) + "\n" for s in short)
    )
    asked = (data / "queries.jsonl").read_text("utf-8").splitlines()[:queries]
    (folder / "queries.jsonl").write_text("\n".join(asked))


def _real(folder: Path, documents: int, queries: int, limit: int) -> None:
    from reranking.models.resolve import resolve_model
    from reranking.scoring.encoder import SentenceEncoder

    _scifact(folder, documents, queries)
    encoder = "builtin:all-MiniLM-L6-v2"
    model = resolve_model("builtin:minilm-reranker").path
    path = tiny.write_config(
        folder,
        model,
        documents__encoder={"model": encoder},
        documents__template="{title} {text}",
        search__limit=limit,
    )
    run = walk(load_config(path))[0]
    stored = read_queries(database_of(run), run.queries).to_pylist()
    encoded = SentenceEncoder(Encoder(model=encoder)).encode_queries([r["text"] for r in stored])
    vectors = {r["query_id"]: v for r, v in zip(stored, encoded, strict=True)}
    oracle = Oracle(run, str(model), vectors)
    results = frame(database_of(run).read(run.results_table))
    for row in stored:
        loose = oracle.loose(row["query_id"], row["text"])
        for query_type in ("vector", "fts", "hybrid"):
            mine = results.filter(query_type=query_type, query_id=row["query_id"]).sort("rank")
            legs = ("vector", "fts") if query_type == "hybrid" else (query_type,)
            theirs = oracle.answer(row["query_id"], row["text"], query_type, "all")
            free = set().union(*(loose[leg] for leg in legs))
            compare(mine, theirs, query_type, free, limit)


def test_real_text_and_models_equal_lancedb(tmp_path: Path) -> None:
    _real(tmp_path, documents=120, queries=5, limit=6)


@pytest.mark.slow
def test_more_real_text_and_models_equal_lancedb(tmp_path: Path) -> None:
    _real(tmp_path, documents=1500, queries=60, limit=30)
