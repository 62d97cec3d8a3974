"""A cluster of each engine for all tests here, and the database that one process makes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.support import tiny
from tests.support.engines import Engine, cluster, free_port, need
from tests.support.object_store import Store
from tests.support.walk import walk_file

CHUNKS = 8


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> Path:
    """A folder with a config, its files, `base` (documents alone) and `alone` (the whole job)."""
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(3)
    tiny.write_jsonl(folder / "documents.jsonl", tiny.documents(80))
    asked = [tiny.sentence(rng, 1, 5) for _ in range(4 * CHUNKS)]
    tiny.write_jsonl(folder / "queries.jsonl", tiny.queries(asked))
    model = folder / "model"
    shutil.copytree(cross_encoder, model)
    changes = {"search__chunk_queries": 4, "rerank__batch_tokens": 256}
    config = tiny.write_config(folder, model, **changes)
    from reranking.pipeline import Pipeline

    Pipeline.load(config).ingest()
    shutil.copytree(folder / "db.lancedb", folder / "base")
    walk_file(config)
    (folder / "db.lancedb").rename(folder / "alone")
    return folder


@pytest.fixture
def config(inputs: Path, tmp_path: Path) -> Path:
    """The config of the same inputs, with a database that holds the documents."""
    for path in inputs.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    shutil.copytree(inputs / "base", tmp_path / "db.lancedb")
    return tmp_path / "config.yaml"


@pytest.fixture(scope="session")
def store_port() -> int:
    """Where the workers look for their object store: nobody listens until a test starts one."""
    return free_port()


@pytest.fixture(scope="session", params=["dask", "ray"])
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, store_port: int
) -> Iterator[Engine]:
    """An existing cluster with two workers."""
    kind = need(request.param)
    environment = Store(f"http://127.0.0.1:{store_port}").environment
    with cluster(kind, tmp_path_factory.mktemp(kind), **environment) as started:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in getattr(started, "client", {}).items():
                patch.setenv(name, value)
            yield started
