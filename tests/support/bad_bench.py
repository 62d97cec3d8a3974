"""A folder with good input to spoil, and how a run on it ends: for the walk of bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lancedb
import polars as pl
import pyarrow as pa
from lancedb import index as lance_index

from configs.load import ConfigFault, load_config
from reranking.arrow import frame
from reranking.errors import EXIT_DONE, EXIT_REJECTS, ConfigError, RescoreError
from reranking.runs.run import Run
from reranking.store import Database
from tests.support import tiny
from tests.support.walk import walk


@dataclass
class Outcome:
    """How a command would end: its exit code, and its message or the reasons of its rejects."""

    code: int
    text: str
    run: Run | None = None

    def table(self, name: str) -> pl.DataFrame:
        """A table of the run's database."""
        assert self.run is not None, self.text
        return frame(self.run.database.read(name))

    def column(self, name: str) -> list[Any]:
        """A column of the documents, by id; with its type checked by whoever compares it."""
        return list(self.table("documents").sort("doc_id")[name])


class Bench:
    """A folder with good documents and queries, of which a case spoils what it is about."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        self.documents(tiny.documents(8))
        self.queries(tiny.queries(["river stone", "lamp"]))

    def documents(self, rows: list[dict[str, Any]]) -> None:
        """Write documents.jsonl; what JSON can escape is escaped."""
        self.write("documents.jsonl", "".join(json.dumps(r) + "\n" for r in rows))

    def queries(self, rows: list[dict[str, Any]]) -> None:
        """Write queries.jsonl."""
        self.write("queries.jsonl", "".join(json.dumps(r) + "\n" for r in rows))

    def first(self, **changes: Any) -> None:
        """Good documents, the first one changed."""
        rows = tiny.documents(8)
        self.documents([{k: v for k, v in (rows[0] | changes).items() if v != ...}, *rows[1:]])

    def first_line(self, line: bytes) -> None:
        """Good documents after a first line of bytes."""
        good = (self.folder / "documents.jsonl").read_bytes()
        self.write("documents.jsonl", line + b"\n" + good)

    def write(self, name: str, data: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    def table(self, name: str, data: pa.Table, fts: str | None = None) -> None:
        """A table that somebody else put into the database."""
        made = lancedb.connect(self.folder / "db.lancedb").create_table(name, data)
        if fts:
            made.create_index(fts, config=lance_index.FTS())

    def run(self, *overrides: str, **changes: Any) -> Outcome:
        """Run the main job; without a reranker unless the case names one."""
        path = tiny.write_config(self.folder, self.model, **{"rerank": None} | changes)
        return attempt(lambda: walk(load_config(path, overrides))[0], self.folder / "db.lancedb")

    def rerank(self, **settings: Any) -> Outcome:
        """Run the main job with this reranker."""
        return self.run(rerank={"model_name": str(self.model)} | settings)

    def source(self, **source: Any) -> Outcome:
        """Run the main job on another source of documents."""
        return self.run(documents__source=source)

    def foreign(self, **changes: Any) -> Outcome:
        """Run the main job on the table `products` of somebody else."""
        names = {"table": "products", "managed": False, "id": "sku", "text": "body"}
        return self.run(documents=names | changes)


def attempt(action: Callable[[], Run | None], database: Path) -> Outcome:
    """What the action comes to. An error that is none of ours fails the test."""
    try:
        run = action()
    except ConfigFault as fault:
        return Outcome(ConfigError.exit_code, str(fault))
    except RescoreError as error:
        return Outcome(error.exit_code, str(error))
    rejects = (
        frame(Database(str(database)).read("rejects")) if database.is_dir() else pl.DataFrame()
    )
    reasons = rejects["reason"].to_list() if len(rejects) else []
    return Outcome(EXIT_REJECTS if reasons else EXIT_DONE, "\n".join(reasons), run)


Case = Callable[[Bench], Outcome]
CASES: dict[str, Case] = {}


def case(name: str) -> Callable[[Case], Case]:
    """Register a case under the words of its line."""

    def register(function: Case) -> Case:
        assert name not in CASES, name
        CASES[name] = function
        return function

    return register
