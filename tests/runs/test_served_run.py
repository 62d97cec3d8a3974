"""Runs whose reranker is a server's: what is sent, stored, shown, and asked for again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from flows.cli import app
from reranking.arrow import frame
from reranking.errors import RuntimeFailure
from reranking.reranker import CrossEncoderReranker
from reranking.runs.listing import find_run
from reranking.store import Database
from tests.support import tiny
from tests.support.judged import shuffled
from tests.support.rerank_server import PATHS, RerankServer, rerank_server
from tests.support.walk import walk_file

TEXTS = ["river stone", "lamp garden", "winter"]
DOCUMENTS = {d["doc_id"]: d["text"] for d in tiny.documents(30)}
ASKED = {f"q{i:03d}": text for i, text in enumerate(TEXTS)}
KEY = "k3y-of-nobody"


@pytest.fixture
def jina() -> Iterator[RerankServer]:
    with rerank_server("jina", key=KEY) as running:
        yield running


def write(folder: Path, server: RerankServer, **changes: Any) -> Path:
    tiny.write_jsonl(folder / "documents.jsonl", tiny.documents(30))
    tiny.write_jsonl(folder / "queries.jsonl", tiny.queries(TEXTS))
    settings = {"api": server.settings(**({} if server.key is None else {"key_env": "OUR_KEY"}))}
    changes.setdefault("search__chunk_queries", 2)
    return tiny.write_config(folder, folder, rerank=settings | {"return_score": "all"}, **changes)


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, [*arguments, "--json"])


def values(done: Any) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return read


@pytest.mark.parametrize("dialect", PATHS)
def test_results_are_the_servers_scores(
    dialect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rerank_server(dialect) as server:
        config = write(tmp_path, server)
        run, counts = walk_file(config)
        results = frame(run.results())
        expected = [
            shuffled(ASKED[q], DOCUMENTS[d]) for q, d in results.select("query_id", "doc_id").rows()
        ]
        np.testing.assert_allclose(results["_relevance_score"], expected, atol=1e-6)
        assert counts["scored"] == counts["pairs"] == len(set(server.pairs)) == len(server.pairs)
        stored = find_run(run.database, run.run_id).stored
        assert (stored["reranker_model"], stored["encoder"]) == ("tiny", None)
        assert stored["score_path"] == f"served-{dialect}/127.0.0.1:{server.port}"
        sent = len(server.asked)
        assert walk_file(config)[1] == {} and len(server.asked) == sent
        deeper, counts = walk_file(config, "search.limit=12", "rerank.api.concurrency=1")
        assert deeper.reranker == run.reranker and counts["reused"] > counts["scored"]
        new = len(server.pairs) - len(set(server.pairs))
        assert new <= 8  # the stored pairs that are asked for again


def test_what_was_answered_is_stored_and_the_key_is_not(
    tmp_path: Path, jina: RerankServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUR_KEY", KEY)
    config = write(tmp_path, jina)
    good = jina.reply

    def reply(path: str, headers: dict[str, str], body: dict[str, Any]) -> Any:
        if body["query"] == "winter":
            return 200, {"results": [{"index": 1, "relevance_score": float("inf")}]}, {}
        return good(path, headers, body)

    monkeypatch.setattr(jina, "reply", reply)
    with pytest.raises(RuntimeFailure, match="answered inf as a score"):
        walk_file(config)
    database = Database(str(tmp_path / "db.lancedb"))
    stored = database.need("pair_scores").count_rows()
    monkeypatch.setattr(jina, "reply", good)
    jina.asked.clear()
    run, counts = walk_file(config)
    assert 0 < stored == counts["reused"]
    assert {query for query, _ in jina.pairs} <= {"winter"}
    files = [f.read_bytes() for f in tmp_path.rglob("*") if f.is_file()]
    assert files and not any(KEY.encode() in content for content in files)
    assert KEY not in json.dumps(run.stored, default=str)


def test_another_model_behind_the_name_stops_the_run(
    tmp_path: Path, jina: RerankServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUR_KEY", KEY)
    config = write(tmp_path, jina)
    run, _ = walk_file(config)
    jina.score = lambda query, document: 1 - shuffled(query, document)
    with pytest.raises(RuntimeFailure, match="another model under the same name. Set .*version"):
        walk_file(config, "search.limit=12")
    other, counts = walk_file(config, "search.limit=12", "rerank.api.version='2'")
    assert other.reranker != run.reranker and counts["reused"] == 0


def test_nothing_is_sent_to_say_what_would_be(
    tmp_path: Path, jina: RerankServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUR_KEY", KEY)
    config = write(tmp_path, jina)
    assert values(invoke("ingest", str(config)))["status"] == "done"
    said = values(invoke("run", str(config), "--dry-run"))
    assert not jina.asked
    sent = said["sent"]
    assert (sent["to"], sent["model"], sent["requests"]) == (jina.url, "tiny", 3)
    assert sent["pairs"] == said["to_score"] > 0 and said["pairs_per_second"] is None
    assert jina.url in CliRunner().invoke(app, ["run", str(config), "--dry-run"]).stdout
    _, counts = walk_file(config)
    assert counts["scored"] == sent["pairs"]
    characters = sum(len(q) + len(d) for q, d in jina.pairs)
    assert sent["characters"] == characters
    again = values(invoke("run", str(config), "--dry-run"))["sent"]
    assert (again["pairs"], again["requests"], again["characters"]) == (0, 0, 0)


def test_the_doctor_asks_the_server_for_one_built_in_pair(
    tmp_path: Path, jina: RerankServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write(tmp_path, jina)
    found = {f["what"]: f for f in values(invoke("doctor", str(config)))["findings"]}
    assert found["reranker's server"]["code"] == 3
    assert "variable OUR_KEY is not set" in found["reranker's server"]["detail"]
    done = invoke("run", str(config))
    assert done.exit_code == 3 and not jina.asked
    monkeypatch.setenv("OUR_KEY", KEY)
    found = {f["what"]: f for f in values(invoke("doctor", str(config)))["findings"]}
    assert "one built-in pair was sent" in found["reranker's server"]["detail"]
    assert jina.pairs == [("What falls from clouds?", "Rain falls from clouds.")]


def test_search_and_the_drop_in_ask_the_server(
    tmp_path: Path, jina: RerankServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa

    monkeypatch.setenv("OUR_KEY", KEY)
    config = write(tmp_path, jina)
    run, _ = walk_file(config)
    done = invoke("search", str(config), "river lamp", "--query-type", "fts")
    assert done.exit_code == 0, done.output
    for hit in values(done)["hits"]:
        expected = shuffled("river lamp", DOCUMENTS[hit["doc_id"]])
        assert hit["logit"] == pytest.approx(expected, abs=1e-6)
    database = str(tmp_path / "db.lancedb")
    own = CrossEncoderReranker(api=jina.settings(key_env="OUR_KEY"), database=database)
    assert own.model.fingerprint.hex() == run.reranker
    jina.asked.clear()
    texts = [*list(DOCUMENTS.values())[:4], "not in the corpus"]
    rows = pa.table({"text": texts, "_score": np.arange(5, dtype=np.float32)})
    scored = frame(own.rerank_fts("river stone", rows))
    expected = [shuffled("river stone", text) for text in scored["text"]]
    np.testing.assert_allclose(scored["_relevance_score"], expected, atol=1e-6)
    assert ("river stone", "not in the corpus") in jina.pairs and len(jina.pairs) < 5


@pytest.mark.slow
def test_a_bake_off_sends_texts_for_the_configs_own_model_only(
    tmp_path: Path, jina: RerankServer, cross_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OUR_KEY", KEY)
    config = write(tmp_path, jina)
    named = ["--reranker", "tiny", "--reranker", str(cross_encoder), "--reranker", "none"]
    done = invoke("bakeoff", str(config), *named)
    assert done.exit_code == 0, done.output
    rows = {row["name"]: row for row in values(done)["rows"]}
    assert [row["reason"] for row in rows.values()] == [None] * 3
    assert rows["tiny"]["scored"] == len(jina.pairs) == rows[cross_encoder.name]["scored"]
    run = Database(str(tmp_path / "db.lancedb")).read(f"results_{rows['tiny']['run_id']}")
    best = frame(run).filter(pl.col("rank") == 1)
    assert best["_relevance_score"].max() <= 1


JUDGED = {
    "judgments": {
        "judgment_list": "j",
        "source": {"format": "trec", "path": "judgments.tsv"},
        "measures": ["nDCG@10"],
    },
    "labels": {"label_set": "answers", "rules": [{"name": "best", "on": "score", "top_n": 2}]},
    "training": {"relevant": 1},
}


def judged(folder: Path, server: RerankServer) -> Path:
    """A config with judgments and labels."""
    lines = [f"q00{q} 0 d{d:03d} {d % 2}" for q in range(3) for d in range(30)]
    (folder / "judgments.tsv").write_text("\n".join(lines))
    return write(folder, server, **JUDGED)


def test_what_reads_stored_scores_asks_nobody(tmp_path: Path) -> None:
    """Neither the server nor its key is there any more; nothing is waited for."""
    with rerank_server("jina") as server:
        config = judged(tmp_path, server)
        run, _ = walk_file(config)
        asked = len(server.asked)
        server.key = "a key"  # from here on `settings` names the variable, which is not set
        judged(tmp_path, server)
    at = ("--config", str(config))
    for arguments in [
        ("evaluate", str(config)),
        ("sweep", str(config)),
        ("label", str(config)),
        ("mine", str(config), "--out", str(tmp_path / "mined.parquet")),
        ("bakeoff", str(config), "--reranker", "tiny", "--reranker", "none"),
        ("explain", run.run_id, "q000", *at),
        ("show", run.run_id, *at),
        ("report", run.run_id, "--out", str(tmp_path / "report.html"), *at),
    ]:
        done = invoke(*arguments)
        assert done.exit_code == 0, (arguments, done.output)
    assert len(server.asked) == asked


def test_a_run_is_reevaluated_with_a_server(tmp_path: Path, cross_encoder: Path) -> None:
    with rerank_server("tei") as server:
        config = judged(tmp_path, server)
        local = ("--set", "rerank.api=null", "--set", f"rerank.model_name={cross_encoder}")
        base = values(invoke("run", str(config), *local))["run_id"]
        sent = values(invoke("run", str(config), "--dry-run"))["sent"]
        assert not server.asked and sent["to"] == server.url
        done = invoke("reevaluate", str(config))
        assert done.exit_code == 0, done.output
        assert len(server.pairs) == sent["pairs"] > 0
        run_id = values(done)["run_id"]
    results = frame(Database(str(tmp_path / "db.lancedb")).read(f"results_{run_id}"))
    pairs = results.select("query_id", "doc_id").rows()
    expected = [shuffled(ASKED[q], DOCUMENTS[d]) for q, d in pairs]
    np.testing.assert_allclose(results["_relevance_score"], expected, atol=1e-6)
    done = invoke("compare", base, run_id, "--config", str(config))
    assert done.exit_code == 0, done.output
