"""A cluster's workers encode documents; the driver commits them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import reranking.encoding
from reranking.arrow import frame
from reranking.pipeline import Pipeline
from reranking.store import Database
from tests.support import tiny
from tests.support.engines import Engine
from tests.support.gate import Gate
from tests.support.judged import encoder_folder

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def test_documents_are_encoded_by_its_workers(
    engine: Engine, cross_encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reranking.encoding, "_FEW", 8)
    gate = Gate(str(tmp_path / "gate")).install(monkeypatch)
    rows = [{k: v for k, v in row.items() if k != "vector"} for row in tiny.documents(80)]
    tiny.write_jsonl(tmp_path / "documents.jsonl", rows)
    tiny.write_jsonl(tmp_path / "queries.jsonl", tiny.queries(["river"]))
    encoder = str(encoder_folder(tmp_path / "encoder", seed=5))
    config = tiny.write_config(tmp_path, cross_encoder, documents__encoder={"model": encoder})
    Pipeline.load(config, "database=alone").ingest()
    assert not gate.events("encode")
    own = engine.settings("execution.gpus_per_worker=0")
    assert Pipeline.load(config, *own).ingest()["inserted"] == 80
    parts = gate.events("encode")
    assert sum(part["pairs"] for part in parts) == 80 and len(parts) == 2
    assert {part["cluster"] for part in parts} == {engine.name}
    assert os.getpid() not in gate.pids("encode")
    found, wanted = (
        frame(Database(str(tmp_path / name)).read("documents")).sort("doc_id")
        for name in ("db.lancedb", "alone")
    )
    assert found["doc_id"].equals(wanted["doc_id"])
    assert np.allclose(found["vector"].to_numpy(), wanted["vector"].to_numpy(), atol=1e-6)
