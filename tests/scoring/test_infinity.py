"""A real Infinity server as a served reranker: its scores are the model's own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from configs.schema import Rerank
from reranking.scoring.crossencoder import find_cross_encoder, find_reranker

pytestmark = pytest.mark.slow
_PATIENCE = 180  # seconds until the server has loaded its model


@pytest.fixture(scope="module")
def infinity(cross_encoder: Path) -> Iterator[str]:
    """The address of the server, which needs an environment of its own (older transformers)."""
    command = shutil.which("infinity_emb")
    if command is None:
        pytest.skip("no infinity_emb on PATH: pip install 'infinity-emb[server,torch]' in a venv")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    asked = ["v2", "--model-id", str(cross_encoder), "--served-model-name", "tiny"]
    asked += ["--engine", "torch", "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    asked += ["--no-model-warmup", "--no-bettertransformer"]
    server = subprocess.Popen(
        [command, *asked],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(f"http://127.0.0.1:{port}/health", server)
        yield f"http://127.0.0.1:{port}/rerank"
    finally:
        server.terminate()
        server.wait(30)


def _wait(url: str, server: subprocess.Popen[bytes]) -> None:
    with httpx.Client(trust_env=False) as client:
        for _ in range(_PATIENCE * 2):
            assert server.poll() is None, "infinity_emb ended"
            try:
                if client.get(url).is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.5)
    pytest.fail("infinity_emb does not answer")


def test_its_scores_are_those_of_the_model(infinity: str, cross_encoder: Path) -> None:
    queries = ["river stone", "winter lamp", "naïve 東京"]
    documents = ["a bridge over the river", "lamp", "paper signal " * 40, "x"]
    pairs = np.repeat(np.arange(3), 4), np.tile(np.arange(4), 3)
    api = {"url": infinity, "model": "tiny", "dialect": "jina", "batch": 3}
    served = find_reranker(Rerank.model_validate({"api": api})).load()
    local = find_cross_encoder(Rerank(model_name=str(cross_encoder), device="cpu")).load()
    logits = local.score(queries, documents, *pairs)
    expected = 1 / (1 + np.exp(-logits))
    assert expected.std() > 0.02
    np.testing.assert_allclose(served.score(queries, documents, *pairs), expected, atol=2e-3)
