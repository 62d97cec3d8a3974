"""A job in a folder of its own, and a small disk, for faults to happen to."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from configs.load import load_config
from reranking.runs.run import Run
from reranking.store import Database
from tests.support import tiny
from tests.support.walk import walk


class World:
    """A folder with documents, queries and a database that may lie elsewhere."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        rng = np.random.default_rng(4)
        tiny.write_jsonl(folder / "documents.jsonl", tiny.documents(60))
        asked = tiny.queries([tiny.sentence(rng, 2, 6) for _ in range(9)])
        tiny.write_jsonl(folder / "queries.jsonl", asked)

    def run(self, database: str | Path = "db.lancedb", **changes: Any) -> Run:
        """Run the job as a new process would."""
        changes = {"search__chunk_queries": 3, "rerank__batch_tokens": 64, **changes}
        path = tiny.write_config(self.folder, self.model, database=str(database), **changes)
        return walk(load_config(path))[0]

    @property
    def database(self) -> Database:
        return Database(str(self.folder / "db.lancedb"))


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Fill the disk but for `leave` bytes with one file."""
    free = os.statvfs(disk)
    path = disk / "filler"
    path.write_bytes(bytes(max(0, free.f_bavail * free.f_bsize - leave)))
    return path
