"""Servers of rerankers that refuse, lie or are not there: cases of the walk of bad input."""

from __future__ import annotations

import os
from typing import Any
from unittest.mock import patch

from reranking.errors import EXIT_DONE
from reranking.scoring import wire
from tests.support.bad_bench import Bench, Outcome, case
from tests.support.rerank_server import Reply, RerankServer, rerank_server

KEY = "k3y-of-nobody"


def ask(bench: Bench, server: RerankServer, **api: Any) -> Outcome:
    """A run that has the server score; `api` changes what the config says of it."""
    return bench.run(rerank={"api": server.settings(**api)})


def answered(bench: Bench, *replies: Reply, dialect: str = "jina", **settings: Any) -> Outcome:
    """A run whose server gives these replies first."""
    with rerank_server(dialect, faults=list(replies)) as server:
        return ask(bench, server, **settings)


@case("an address that is no http or https")
def _(bench: Bench) -> Outcome:
    return ask(bench, RerankServer("jina"), url="ftp://reranker.example/rerank")


@case("a key in the address")
def _(bench: Bench) -> Outcome:
    outcome = ask(bench, RerankServer("jina"), url=f"https://reranker.example/rerank?key={KEY}")
    assert KEY not in outcome.text
    return outcome


@case("a key where its variable's name belongs")
def _(bench: Bench) -> Outcome:
    outcome = ask(bench, RerankServer("jina"), key_env=KEY)
    assert KEY not in outcome.text
    return outcome


@case("a local model's settings beside a server")
def _(bench: Bench) -> Outcome:
    return bench.run(rerank={"api": RerankServer("jina").settings(), "max_length": 32})


@case("a key's variable that is not set")
def _(bench: Bench) -> Outcome:
    return ask(bench, RerankServer("jina"), key_env="NO_SUCH_KEY")


@case("a key that the server does not take")
def _(bench: Bench) -> Outcome:
    with patch.dict(os.environ, OUR_KEY=KEY), rerank_server("jina", key="another") as server:
        outcome = ask(bench, server, key_env="OUR_KEY")
    assert KEY not in outcome.text
    return outcome


@case("a server that wants a key and gets none")
def _(bench: Bench) -> Outcome:
    with rerank_server("cohere", key=KEY) as server:
        return ask(bench, server)


@case("a server that is not there")
def _(bench: Bench) -> Outcome:
    with rerank_server("jina") as server:
        pass
    return ask(bench, server)


@case("a name that is no model there")
def _(bench: Bench) -> Outcome:
    with rerank_server("vllm") as server:
        return ask(bench, server, model="large")


@case("a TEI server of another model")
def _(bench: Bench) -> Outcome:
    with rerank_server("tei") as server:
        return ask(bench, server, model="large")


@case("another dialect than the server's")
def _(bench: Bench) -> Outcome:
    return answered(bench, (200, [{"index": 0, "score": 1.0}], {}))


@case("an answer that is a page")
def _(bench: Bench) -> Outcome:
    return answered(bench, (200, "<html>", {"Content-Type": "text/html"}))


@case("more pairs a request than the server takes")
def _(bench: Bench) -> Outcome:
    return answered(bench, (413, {"error": "batch size 64 > 32"}, {}))


@case("a server that leads elsewhere")
def _(bench: Bench) -> Outcome:
    return answered(bench, (307, "", {"Location": "https://elsewhere.example/"}))


@case("fewer scores than pairs")
def _(bench: Bench) -> Outcome:
    return answered(bench, (200, {"results": [{"index": 0, "relevance_score": 1}]}, {}))


@case("a served score of NaN")
def _(bench: Bench) -> Outcome:
    return answered(bench, (200, '{"results": [{"index": 0, "relevance_score": NaN}]}', {}))


@case("a server that is too busy for a minute")
def _(bench: Bench) -> Outcome:
    busy: Reply = (429, {"message": "slow down"}, {"Retry-After": "0"})
    with patch.object(wire, "_TRIES", 2):
        return answered(bench, busy, busy, busy, busy, busy)


@case("another model behind the same name")
def _(bench: Bench) -> Outcome:
    with rerank_server("jina") as server:
        assert ask(bench, server).code == EXIT_DONE
        server.score = lambda query, document: 9.0
        bench.documents([{"doc_id": "new", "text": "river", "vector": [1.0] * 8}])
        return ask(bench, server)
