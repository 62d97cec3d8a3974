"""A server of rerankers in each dialect, on this machine, that can be told to misbehave."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.judged import shuffled

PATHS = {
    "cohere": "/v2/rerank",
    "jina": "/v1/rerank",
    "tei": "/rerank",
    "vllm": "/score",
}
Reply = tuple[int, Any, dict[str, str]]  # status, JSON (or text), headers


@dataclass
class RerankServer:
    """What it was asked, and what it does instead of answering: the first fault that is left."""

    dialect: str
    model: str = "tiny"
    key: str | None = None
    score: Callable[[str, str], float] = shuffled
    faults: list[Reply] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    port: int = 0
    certificate: Path | None = None  # https, with this certificate and key
    lock: Any = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        scheme = "http" if self.certificate is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}{PATHS[self.dialect]}"

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """All pairs that were asked for, those of refused requests too."""
        return [pair for body in self.asked for pair in pairs_of(self.dialect, body)]

    def settings(self, **more: Any) -> dict[str, Any]:
        """`rerank.api` of a config."""
        return {"url": self.url, "model": self.model, "dialect": self.dialect} | more

    def reply(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Reply:
        with self.lock:
            self.asked.append(body)
            self.headers.append(headers)
            if self.faults:
                return self.faults.pop(0)
        if path != PATHS[self.dialect]:
            return 404, {"detail": "Not Found"}, {}
        if self.key is not None and headers.get("Authorization") != f"Bearer {self.key}":
            given = headers.get("Authorization", "").removeprefix("Bearer ")
            return 401, {"message": f"invalid api token {given}"}, {}
        if self.dialect != "tei" and body.get("model") != self.model:
            return 404, {"error": {"message": f"The model `{body.get('model')}` is not here"}}, {}
        return 200, answer(self.dialect, self.model, body, self.score), {}


def pairs_of(dialect: str, body: dict[str, Any]) -> list[tuple[str, str]]:
    """The pairs of a request; a KeyError or AssertionError for one of another dialect."""
    if dialect == "vllm":
        assert body["truncate_prompt_tokens"] == -1 and body["use_activation"] is False
        return list(zip(body["text_1"], body["text_2"], strict=True))
    if dialect == "tei":
        assert body["raw_scores"] and body["truncate"] and "model" not in body
        assert len(body["texts"]) <= 32
        return [(body["query"], text) for text in body["texts"]]
    assert body["top_n"] == len(body["documents"])
    return [(body["query"], text) for text in body["documents"]]


def answer(dialect: str, model: str, body: Any, score: Callable[[str, str], float]) -> Any:
    """The answer as the servers give it: best first, except for vLLM's."""
    scores = [score(q, d) for q, d in pairs_of(dialect, body)]
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    if dialect == "tei":
        return [{"index": i, "score": scores[i]} for i in order]
    if dialect == "vllm":
        rows = [{"index": i, "object": "score", "score": s} for i, s in enumerate(scores)]
        return {"id": "score-1", "object": "list", "model": model, "data": rows, "usage": {}}
    results = [{"index": i, "relevance_score": scores[i]} for i in order]
    if dialect == "jina":
        return {"model": model, "results": results, "usage": {"total_tokens": 1}}
    return {"id": "1", "results": results, "meta": {"api_version": {"version": "2"}}}


@contextmanager
def rerank_server(dialect: str, **settings: Any) -> Iterator[RerankServer]:
    """A server at a free port of this machine."""
    server = RerankServer(dialect, **settings)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(*server.reply(self.path, dict(self.headers), body))

        def do_GET(self) -> None:
            if server.dialect == "tei" and self.path == "/info":
                self._send(200, {"model_id": f"org/{server.model}", "model_dtype": "float16"}, {})
            else:
                self._send(404, {"detail": "Not Found"}, {})

        def _send(self, status: int, said: Any, headers: dict[str, str]) -> None:
            content = (said if isinstance(said, str) else json.dumps(said)).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None: ...

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    if server.certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(server.certificate)
        running.socket = tls.wrap_socket(running.socket, server_side=True)
    server.port = running.server_address[1]
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        running.shutdown()
        running.server_close()
        thread.join()
