"""Served rerankers against a real HTTP server of this machine, in each dialect."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from configs.schema import Rerank
from reranking.errors import ConfigError, MissingPrerequisite, RescoreError, RuntimeFailure
from reranking.scoring import wire
from reranking.scoring.crossencoder import find_reranker
from reranking.scoring.served import ServedModel
from reranking.scoring.wire import asked_pause
from tests.support.certificate import own_certificate
from tests.support.judged import shuffled
from tests.support.rerank_server import PATHS, RerankServer, rerank_server

QUERIES = ["river stone", "naïve 東京", "lamp"]
DOCUMENTS = [f"document {i} é" for i in range(40)]
Q, D = np.repeat(np.arange(3), 40), np.tile(np.arange(40), 3)
EXPECTED = np.array([shuffled(QUERIES[q], DOCUMENTS[d]) for q, d in zip(Q, D, strict=True)])
KEY = "k3y-of-nobody"


@pytest.fixture(params=PATHS)
def server(request: pytest.FixtureRequest) -> Iterator[RerankServer]:
    with rerank_server(request.param) as running:
        yield running


@pytest.fixture
def tei() -> Iterator[RerankServer]:
    with rerank_server("tei") as running:
        yield running


@pytest.fixture
def jina() -> Iterator[RerankServer]:
    with rerank_server("jina") as running:
        yield running


def model(server: RerankServer, **more: Any) -> ServedModel:
    found = find_reranker(Rerank.model_validate({"api": server.settings(**more)}))
    assert isinstance(found, ServedModel)
    return found


def score(server: RerankServer, **more: Any) -> np.ndarray:
    return model(server, **more).load().score(QUERIES, DOCUMENTS, Q, D)


def until_fault(server: RerankServer, **more: Any) -> tuple[dict[int, float], Exception]:
    """What is given before the fault, and the fault."""
    known: dict[int, float] = {}
    with pytest.raises(RescoreError) as caught:
        for batch in model(server, **more).load().batches(QUERIES, DOCUMENTS, Q, D):
            positions, values = batch.positions, batch.logits
            assert not known.keys() & set(positions.tolist())
            known |= dict(zip(positions.tolist(), values.tolist(), strict=True))
    for position, value in known.items():
        assert value == pytest.approx(EXPECTED[position], abs=1e-6)
    return known, caught.value


def test_scores_are_the_servers_own(server: RerankServer) -> None:
    np.testing.assert_allclose(score(server), EXPECTED, atol=1e-6)
    assert sorted(server.pairs) == sorted(
        (QUERIES[q], DOCUMENTS[d]) for q, d in zip(Q, D, strict=True)
    )
    assert len(server.asked) == {"tei": 6, "vllm": 2}.get(server.dialect, 3)
    assert all("Authorization" not in headers for headers in server.headers)
    server.asked.clear()
    score(server, batch=7, concurrency=1)
    assert len(server.asked) == 18
    scorer = model(server).load()
    assert scorer.score([], [], np.zeros(0, np.int64), np.zeros(0, np.int64)).shape == (0,)


def test_what_names_the_scores(tei: RerankServer, jina: RerankServer) -> None:
    same = [model(tei), model(tei, batch=3, concurrency=1, key_env="X")]
    same.append(model(RerankServer("tei", port=1)))  # at another address
    assert len({m.fingerprint for m in same}) == 1
    others = [model(jina), model(tei, version="2"), model(RerankServer("tei", model="large"))]
    assert len({m.fingerprint for m in [same[0], *others]}) == 4
    assert (same[0].dtype, same[0].activation, same[0].max_length) == ("served", "identity", None)
    assert (same[0].name, others[1].revision) == ("tiny", "2")


def test_a_busy_server_is_asked_again_when_it_says(
    jina: RerankServer, caplog: pytest.LogCaptureFixture
) -> None:
    busy = (429, {"message": "slow down"}, {"Retry-After": "0"})
    jina.faults = [busy, (503, "<html>", {"Retry-After": "0"}), busy, busy]
    with caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(score(jina), EXPECTED, atol=1e-6)
    assert len(jina.asked) == 3 + 4
    said = [r.getMessage() for r in caplog.records]
    assert len(said) == 2 and "429 slow down; trying again in" in "".join(said)  # each kind once


def test_a_server_that_stays_busy_loses_nothing_that_was_answered(
    jina: RerankServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_TRIES", 3)
    good = jina.reply

    def reply(path: str, headers: dict[str, str], body: dict[str, Any]) -> Any:
        if body["query"] == "lamp":
            return 500, {"message": "oops"}, {"Retry-After": "0"}
        return good(path, headers, body)

    monkeypatch.setattr(jina, "reply", reply)
    known, fault = until_fault(jina)
    assert isinstance(fault, RuntimeFailure)
    assert "did not answer 3 times (500 oops)" in str(fault)
    assert known.keys() == set(range(80))


def test_the_pause_is_the_servers_within_bounds() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert asked_pause(None, 3.5) == 3.5
    assert asked_pause("2", 3.5) == 2
    assert 25 < asked_pause(soon, 3.5) <= 30
    assert asked_pause("100000", 3.5) == 120
    assert asked_pause("-5", 3.5) == asked_pause("0", 3.5) == 0.01
    assert asked_pause("soon", 3.5) == asked_pause("nan", 3.5) == 3.5


HALF = {"results": [{"index": i, "relevance_score": 0.5} for i in range(9)]}
FAULTS: dict[str, tuple[Any, type[RescoreError], str]] = {
    "key": ((401, {"message": "no key"}, {}), MissingPrerequisite, "name .* as rerank.api.key_env"),
    "forbidden": ((403, {"message": "no"}, {}), MissingPrerequisite, "403: no. So it wants a key"),
    "model": ((404, {"detail": "no model x"}, {}), ConfigError, "check .*url.*api.model"),
    "method": ((405, "", {}), ConfigError, "nothing can be posted there"),
    "size": ((413, {"error": "too many"}, {}), ConfigError, "413: too many; set a smaller"),
    "request": ((422, {"detail": [{"msg": "x"}]}, {}), ConfigError, "speaks the dialect jina"),
    "no reranker": ((424, {"error": "x"}, {}), ConfigError, "is no reranker there"),
    "moved": ((301, "", {"Location": "http://a.example/"}), ConfigError, "it leads elsewhere"),
    "no JSON": ((200, "<html>hello</html>", {}), ConfigError, "is no JSON .*path included"),
    "other dialect": ((200, [{"index": 0, "score": 1}], {}), ConfigError, "of the dialect jina"),
    "keys": ((200, {"data": []}, {}), ConfigError, "with the keys data: set .*dialect"),
    "rows": ((200, {"results": [[1]]}, {}), ConfigError, "a row that is a list"),
    "text": (
        (200, {"results": [{"index": 0, "relevance_score": "1"}]}, {}),
        ConfigError,
        "not index and relevance_score",
    ),
    "half": ((200, HALF, {}), RuntimeFailure, "answered 9 of 40 scores: what was answered is kept"),
    "NaN": (
        (200, '{"results": [{"index": 3, "relevance_score": NaN}]}', {}),
        RuntimeFailure,
        "answered nan as a score",
    ),
    "endless": (
        (200, f'{{"results": [{{"index": 3, "relevance_score": 1{"0" * 400}}}]}}', {}),
        RuntimeFailure,
        "answered inf as a score",
    ),
    "place": (
        (200, {"results": [{"index": 40, "relevance_score": 1}]}, {}),
        RuntimeFailure,
        "place 40 of 40",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_said_in_words(name: str, jina: RerankServer) -> None:
    reply, kind, words = FAULTS[name]
    jina.faults = [reply]
    with pytest.raises(kind, match=words) as caught:
        score(jina, concurrency=1)
    assert "\n" not in str(caught.value) and jina.url in str(caught.value)
    assert DOCUMENTS[0] not in str(caught.value)


def test_half_an_answer_is_kept(jina: RerankServer) -> None:
    rows = [{"index": i, "relevance_score": shuffled(QUERIES[0], DOCUMENTS[i])} for i in range(9)]
    jina.faults = [(200, {"results": rows}, {})]
    known, _ = until_fault(jina, concurrency=1)
    assert known.keys() == set(range(9))


def test_what_is_under_way_is_kept_when_another_request_fails(
    jina: RerankServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, good = threading.Event(), jina.reply

    def reply(path: str, headers: dict[str, str], body: dict[str, Any]) -> Any:
        if body["query"] == QUERIES[0]:
            failed.set()
            return 422, {"message": "no"}, {}
        failed.wait(10)
        return good(path, headers, body)

    monkeypatch.setattr(jina, "reply", reply)
    known, fault = until_fault(jina, concurrency=3)
    assert isinstance(fault, ConfigError) and known.keys() == set(range(40, 120))


def test_another_model_than_the_configs_is_refused(tei: RerankServer, jina: RerankServer) -> None:
    with pytest.raises(ConfigError, match="has the model 'org/tiny', rerank.api.model says 'x'"):
        model(tei, model="x").load()
    model(tei, model="other/Tiny").load()
    with pytest.raises(ConfigError, match="The model `x` is not here; check"):
        score(jina, model="x")


def test_another_name_in_the_answer_is_told_once(
    jina: RerankServer, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"index": i, "relevance_score": 1} for i in range(20)]
    jina.faults = [(200, {"model": "big", "results": rows}, {})] * 6
    with caplog.at_level(logging.WARNING):
        score(jina, batch=20)
    assert [r.getMessage().split(":")[0] for r in caplog.records] == [
        "the server answers as big, asked was tiny"
    ]


def test_the_key_is_read_from_its_variable_and_told_to_nobody_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with rerank_server("cohere", key=KEY) as running, caplog.at_level(logging.DEBUG):
        monkeypatch.setenv("OUR_KEY", f" {KEY}\n")
        settings = Rerank.model_validate({"api": running.settings(key_env="OUR_KEY")})
        scorer = find_reranker(settings).load()
        np.testing.assert_allclose(scorer.score(QUERIES, DOCUMENTS, Q, D), EXPECTED, atol=1e-6)
        assert {h["Authorization"] for h in running.headers} == {f"Bearer {KEY}"}
        assert KEY not in settings.model_dump_json() + repr(scorer) + repr(vars(scorer))
        running.key = "another"
        with pytest.raises(MissingPrerequisite) as caught:
            scorer.score(QUERIES, DOCUMENTS, Q, D)
        assert "401: invalid api token ***. So it does not take the key in OUR_KEY" in str(
            caught.value
        )
        monkeypatch.setenv("OUR_KEY", f"{KEY}\r\nX-Other: 1")
        with pytest.raises(MissingPrerequisite, match="OUR_KEY holds no key"):
            find_reranker(settings).load()
        monkeypatch.delenv("OUR_KEY")
        with pytest.raises(MissingPrerequisite, match="variable OUR_KEY is not set"):
            find_reranker(settings).load()
    assert KEY not in caplog.text


def test_a_server_that_is_not_there_is_not_waited_for() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        gone = RerankServer("jina", port=taken.getsockname()[1])
        with pytest.raises(MissingPrerequisite, match="cannot be reached .*: start it, or correct"):
            score(gone)


def test_https_to_a_server_that_does_not_speak_it(jina: RerankServer) -> None:
    with pytest.raises(MissingPrerequisite, match="https, does the server speak it"):
        score(jina, url=jina.url.replace("http:", "https:"))


def test_a_certificate_that_is_not_trusted_is_named_with_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    own = own_certificate(tmp_path)
    with rerank_server("jina", certificate=own) as server:
        with pytest.raises(MissingPrerequisite, match="CA's file .* in SSL_CERT_FILE") as no:
            score(server)
        assert server.url in str(no.value) and "not trusted" in str(no.value) and not server.asked
        monkeypatch.setenv("SSL_CERT_FILE", str(own))
        np.testing.assert_allclose(score(server), EXPECTED, atol=1e-6)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone.pem"))
        with pytest.raises(ConfigError, match="SSL_CERT_FILE names .*gone.pem"):
            score(server)


def test_a_certificate_of_another_host_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = own_certificate(tmp_path, "reranker.example")
    monkeypatch.setenv("SSL_CERT_FILE", str(own))
    with (
        rerank_server("jina", certificate=own) as server,
        pytest.raises(MissingPrerequisite, match="is another host's: set .*api.url to the name"),
    ):
        score(server)


def test_this_machine_is_asked_directly_and_others_by_the_proxy(
    jina: RerankServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rerank_server("jina") as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        score(jina)
        assert jina.asked and not proxy.asked
        with pytest.raises(ConfigError, match="answered 404"):
            score(jina, url="http://reranker.example/v1/rerank")
        assert proxy.asked
    for name in ("http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HTTP_PROXY", "nonsense://user:secret@nowhere")
    with pytest.raises(ConfigError, match="look at HTTP_PROXY") as caught:
        score(jina, url="http://reranker.example/v1/rerank")
    assert "secret" not in str(caught.value)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a key in the address": ({"url": "https://u:p4ss@a.example/rerank"}, "must not hold a user"),
    "options": ({"url": "https://a.example/rerank?key=p4ss"}, "must not hold a user"),
    "no address": ({"url": "a.example/rerank"}, "expected the address that pairs are posted to"),
    "another scheme": ({"url": "ftp://a.example/p4ss"}, "expected the address"),
    "a port": ({"url": "https://a.example:p4ss/x"}, "Port could not be cast|invalid literal"),
    "a key for its variable": ({"key_env": "sk-p4ss"}, "expected the name of an environment"),
    "a long key for its variable": ({"key_env": "Ab1p4ss" * 6}, "expected the name of an env"),
    "a dialect": ({"dialect": "voyage"}, "'cohere', 'jina', 'tei' or 'vllm'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_are_refused_without_repeating_them(name: str) -> None:
    change, words = BAD[name]
    good = {"url": "https://a.example/rerank", "model": "m", "dialect": "jina"}
    Rerank.model_validate({"api": good})
    with pytest.raises(ValidationError, match=words) as caught:
        Rerank.model_validate({"api": good | change})
    said = [e["msg"] for e in caught.value.errors()]
    assert name == "a port" or not any("p4ss" in text for text in said)


def test_what_says_how_a_model_is_loaded_does_not_stand_beside_a_server() -> None:
    api = {"url": "https://a.example/rerank", "model": "m", "dialect": "jina"}
    with pytest.raises(ValidationError, match="model_name, max_length would say how a model is"):
        Rerank.model_validate({"api": api, "model_name": "builtin:x", "max_length": 256})
