"""A finished run to look after, and a copy of it for each test."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from reranking.runs.run import Run
from reranking.store import Database
from tests.support import tiny
from tests.support.walk import database_of, walk_file


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> tuple[Path, Run]:
    """A folder with a config and one finished run of three chunks."""
    folder = tmp_path_factory.mktemp("made")
    tiny.write_jsonl(folder / "documents.jsonl", tiny.documents(40))
    texts = ["river stone", "winter lamp", "paper signal", "copper", "velvet marble falcon"]
    tiny.write_jsonl(folder / "queries.jsonl", tiny.queries(texts))
    config = tiny.write_config(
        folder,
        cross_encoder,
        search__chunk_queries=2,
        documents__vector_index={"type": "IVF_FLAT"},
    )
    return folder, walk_file(config)[0]


@pytest.fixture
def config(tmp_path: Path, made: tuple[Path, Run]) -> Path:
    """The config of a copy of that folder."""
    shutil.copytree(made[0], tmp_path / "copy")
    return tmp_path / "copy" / "config.yaml"


@pytest.fixture
def run(config: Path, made: tuple[Path, Run]) -> Run:
    """The finished run, in the copy."""
    return replace(made[1], database=Database(str(config.parent / "db.lancedb")))


@pytest.fixture
def database(run: Run) -> Database:
    return database_of(run)
