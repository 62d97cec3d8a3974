"""Is everything there that the configured run needs, and what will it cost?"""

from __future__ import annotations

import os
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import pyarrow as pa
from packaging.requirements import Requirement

from configs.schema import Config
from reranking.corpus.indexes import need_fts, unindexed
from reranking.corpus.queries import pin_queries, queries_of, read_queries
from reranking.errors import EXIT_DONE, MissingPrerequisite, RescoreError, worst
from reranking.pipeline import Pipeline
from reranking.runs.estimate import Estimate, estimate
from reranking.scoring.scorer import resolve_device
from reranking.sources.open import read_queries as read_source
from reranking.store import Database


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `code` is the exit code it asks for, 0 where it is well."""

    what: str
    code: int
    detail: str


def examine(config: Config) -> list[Finding]:
    """Everything that was looked at, in the order in which a run needs it."""
    looks: list[tuple[str, Callable[[], str]]] = [
        ("versions", _versions),
        ("config and models", lambda: _models(config)),
        ("device", lambda: _device(config)),
        ("database", lambda: _database(config)),
        ("disk", lambda: _disk(config)),
        ("documents", lambda: _documents(config)),
        ("queries", lambda: f"{_queries(config).num_rows:,} queries"),
        ("prefect server", _server),
    ]
    return [_look(what, look) for what, look in looks]


def exit_code(findings: list[Finding]) -> int:
    """The exit code that stands for all findings."""
    return worst(EXIT_DONE, *(f.code for f in findings))


def forecast(config: Config) -> dict[str, Any]:
    """What the configured run will cost, from a sample of its queries; nothing is written.

    Documents are those of the last completed ingest. Raises what the run itself would raise.
    """
    pipeline = Pipeline(config)
    pipeline.check()
    return asdict(_estimate(pipeline))


def _estimate(pipeline: Pipeline) -> Estimate:
    database = Database(pipeline.config.database, must_exist=True)
    encoder, model = pipeline.encoder, pipeline.reranker
    corpus = pipeline.corpus()
    return estimate(
        database,
        corpus,
        _queries(pipeline.config),
        pipeline.search_of(corpus),
        encoder,
        None if model is None else (model.fingerprint, model.load),
    )


def _look(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, EXIT_DONE, look())
    except RescoreError as error:
        return Finding(what, error.exit_code, str(error))


def _versions() -> str:
    faults = list(_wrong_versions())
    if faults:
        raise MissingPrerequisite("; ".join(faults) + ". Install with constraints.txt")
    return f"lancedb {version('lancedb')}, prefect {version('prefect')}, torch {version('torch')}"


def _wrong_versions() -> Iterator[str]:
    for line in requires("rescore") or []:
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            yield f"{wanted.name} is not installed"
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            yield f"{wanted.name} is {found}, expected {wanted.specifier}"


def _models(config: Config) -> str:
    pipeline = Pipeline(config)
    pipeline.check()
    encoder, reranker = pipeline.encoder, pipeline.reranker
    names = [
        "no encoder" if encoder is None else f"encoder {encoder.fingerprint[:8]}",
        "no reranker"
        if reranker is None
        else f"reranker {reranker.fingerprint.hex()[:8]} ({reranker.dtype}, "
        f"{reranker.max_length} tokens)",
    ]
    return ", ".join(names)


def _device(config: Config) -> str:
    given = None if config.rerank is None else config.rerank.device
    devices = given if isinstance(given, list) else [given]
    return ", ".join(resolve_device(device) for device in devices)


def _database(config: Config) -> str:
    remote = "://" in config.database
    if not remote:
        _need_writable(Path(config.database))
        if not Path(config.database).is_dir():
            return f"{config.database} will be made"
    database = Database(config.database)
    names = database.names()
    for name in names:
        database.open(name)  # raises for a broken one and for another schema version
    return f"{len(names)} tables in {config.database}"


def _need_writable(folder: Path) -> None:
    place = _place(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".rescore-doctor."):
            pass
    except OSError as error:
        raise MissingPrerequisite(f"{place} cannot be written: {error}") from error


def _place(folder: Path) -> Path:
    """The folder, or the one in which it would be made."""
    return next(p for p in [folder, *folder.absolute().parents] if p.is_dir())


def _disk(config: Config) -> str:
    if "://" in config.database:
        return "an object store"
    place = next(
        p for p in [Path(config.database), *Path(config.database).absolute().parents] if p.is_dir()
    )
    free = shutil.disk_usage(place).free / 1e9
    if free < 1:
        raise MissingPrerequisite(f"{free:.2f} GB free at {place}: less than 1 GB")
    return f"{free:,.0f} GB free"


def _documents(config: Config) -> str:
    if config.documents.source is not None and not _stored(config):
        return "not ingested yet: `rescore run` or `rescore ingest` does it"
    database = Database(config.database, must_exist=True)
    pipeline = Pipeline(config)
    corpus = pipeline.corpus()
    table = database.need(corpus.table, corpus.version)
    if "fts" in pipeline.search_of(corpus).legs:
        need_fts(table, corpus.table, corpus.text)
    left = unindexed(table)
    note = f"; indexes lack rows: {left}" if left else ""
    return f"{table.count_rows():,} documents in {corpus.table!r}, version {corpus.version}{note}"


def _stored(config: Config) -> bool:
    folder = "://" in config.database or Path(config.database).is_dir()
    return folder and Database(config.database).open(config.documents.table) is not None


def _queries(config: Config) -> pa.Table:
    source = config.queries.source
    if source is not None:
        return queries_of(config.queries.query_set, read_source(source))[0]
    database = Database(config.database, must_exist=True)
    return read_queries(database, pin_queries(database, config.queries.query_set))


def _server() -> str:
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return "none is set: the embedded one is used"
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=10) as answer:
            if answer.status == 200:
                return "answers"
    except OSError as error:
        raise MissingPrerequisite(
            f"the server of PREFECT_API_URL does not answer: {error}"
        ) from None
    raise MissingPrerequisite("PREFECT_API_URL answers, but not as Prefect does")
