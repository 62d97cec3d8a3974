"""Ray and Dask clusters on this machine: ours beside each engine's plain way with `predict`.

    python -m benchmarks.cluster --queries 24 --workers 1 2

Each engine is started by its own commands, with workers of one thread. A job is the whole one:
search, known scores, scoring, commits, publishing; the plain way is given the pairs and scores
them. Both are done once before they are timed, so that workers that stay have imported what they
need; models are loaded anew on either side. On a machine with other work the CPU seconds, of the
cluster and of the driver together, say more than the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.plain_engines import PLAIN, Pairs
from benchmarks.texts import random_job


def main() -> None:
    """Measure both engines, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--queries", type=int, default=24)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--limit", type=int, default=20)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--engines", nargs="+", default=["dask", "ray"])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ.update({"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "LANCE_LOG": "error"})
    import torch
    from rich.console import Console

    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        config = world(Path(folder), options)
        for kind in options.engines:
            found[kind] = measure(kind, Path(folder), config, options)
            Console(width=110).print(table({kind: found[kind]}))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def world(folder: Path, options: argparse.Namespace) -> Path:
    """A config whose documents are ingested; `base` is its database, `tiny` a small model."""
    from reranking.pipeline import Pipeline
    from tests.support.tiny import tiny_cross_encoder

    tiny_cross_encoder(folder / "tiny")
    config = random_job(
        folder,
        options.documents,
        options.queries,
        "builtin:minilm-reranker",
        search__limit=options.limit,
        search__chunk_queries=2,
    )
    Pipeline.load(config).ingest()
    (folder / "db.lancedb").rename(folder / "base")
    return config


def measure(kind: str, folder: Path, config: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What one engine takes, by number of workers, and what a chunk costs there."""
    from tests.support.engines import cluster, free_port
    from tests.support.object_store import Store

    port = free_port()
    environment = Store(f"http://127.0.0.1:{port}").environment
    found: dict[str, Any] = {"seconds": {}, "plain": {}}
    most, model = max(options.workers), model_folder()
    with (
        cluster(kind, folder / kind, workers=most, **environment) as engine,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in getattr(engine, "client", {}).items():
            patch.setenv(name, value)
        own = engine.settings("execution.gpus_per_worker=0")
        with fresh(config):
            job(config, *own)
            pairs = pairs_of(config)
            PLAIN[kind](engine.address, pairs[:200], model, most)
        found["pairs"] = len(pairs)
        pids = [process.pid for process in engine.processes]
        for workers in sorted(options.workers):
            number = f"execution.workers={workers}"
            with fresh(config):
                ours = timed(lambda n=number: job(config, *own, n), pids)
            theirs = timed(lambda w=workers: PLAIN[kind](engine.address, pairs, model, w), pids)
            found["seconds"][workers], found["plain"][workers] = ours, theirs
        with fresh(config):
            found["a chunk"] = fixed_cost(config, *own)
        with fresh(config):
            found["twice"], found["committed twice"] = lost_work(folder / kind, config, own)
        found["requests"] = requests(port, config, own)
    return found


@contextmanager
def fresh(config: Path) -> Iterator[None]:
    """A database with documents and nothing else, for the block."""
    database = config.parent / "db.lancedb"
    shutil.copytree(config.parent / "base", database)
    try:
        yield
    finally:
        shutil.rmtree(database)


def job(config: Path, *overrides: str) -> dict[str, Any]:
    """The job after its ingest; its counts."""
    from tests.support.walk import walk_file

    return walk_file(config, *overrides, ingest=False)[1]


def model_folder() -> str:
    """The built-in model as sentence-transformers loads it."""
    from reranking.models.resolve import resolve_model

    return str(resolve_model("builtin:minilm-reranker").path)


def timed(work: Callable[[], Any], pids: list[int]) -> tuple[float, float]:
    """Seconds of the work by the clock, and CPU seconds of this process and the cluster's."""
    before, started = cpu_of(pids), time.perf_counter()
    work()
    return time.perf_counter() - started, cpu_of(pids) - before


def cpu_of(pids: list[int]) -> float:
    """CPU seconds so far of this process and of those with all that they have started."""
    import psutil

    every = {psutil.Process()} | {psutil.Process(pid) for pid in pids}
    for process in list(every):
        every |= set(process.children(recursive=True))
    total = 0.0
    for process in every:
        try:
            total += sum(process.cpu_times()[:4])  # those of children that have ended among them
        except psutil.NoSuchProcess:
            continue
    return total


def pairs_of(config: Path) -> Pairs:
    """The texts of the finished run's pairs, in the order of its candidates."""
    import polars as pl

    from reranking.arrow import frame
    from reranking.store import Database

    database = Database(str(config.parent / "db.lancedb"))
    queries, documents = (
        frame(database.read(name)).select(key, text="text")
        for name, key in (("queries", "query_id"), ("documents", "doc_id"))
    )
    rows = frame(database.read("candidates")).unique(["query_hash", "doc_hash"])
    both = rows.join(queries, on="query_id").join(documents.rename({"text": "t"}), on="doc_id")
    return list(both.select(pl.col("text"), pl.col("t")).iter_rows())


def fixed_cost(config: Path, *overrides: str) -> float:
    """Seconds from one chunk's end to the next, of chunks of one query and a model of no size."""
    from reranking.workers.telling import Teller

    ends: list[float] = []
    told = Teller.__call__

    def noted(teller: Any, tally: Any) -> None:
        if tally.done > len(ends):
            ends.append(time.perf_counter())
        told(teller, tally)

    small = [f"rerank.model_name={config.parent / 'tiny'}", "search.chunk_queries=1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Teller, "__call__", noted)
        job(config, *overrides, *small, "search.limit=5", "execution.workers=1")
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def lost_work(folder: Path, config: Path, own: list[str]) -> tuple[int, int]:
    """Pairs scored twice because a worker was killed, and those that are stored twice."""
    from reranking.store import Database
    from tests.support.gate import Gate

    with pytest.MonkeyPatch.context() as patch:
        gate = Gate(str(folder / "gate"), dies="middle").install(patch)
        counts = job(config, *own, "execution.commit_seconds=1", "rerank.batch_tokens=2048")
    rows = Database(str(config.parent / "db.lancedb")).need("pair_scores").count_rows()
    return gate.scored() - counts["pairs"], rows - counts["pairs"]


def requests(port: int, config: Path, own: list[str]) -> int:
    """Requests to an object store for a whole job, its small ingest included, of 12 chunks."""
    from werkzeug.serving import WSGIRequestHandler

    from tests.support.object_store import BUCKET, emulator
    from tests.support.walk import walk_file

    count = 0
    small = [f"rerank.model_name={config.parent / 'tiny'}", f"database=s3://{BUCKET}/db"]

    def counted(*_: Any) -> None:
        nonlocal count
        count += 1

    with pytest.MonkeyPatch.context() as patch, emulator(port) as store:
        for name, value in store.environment.items():
            patch.setenv(name, value)
        patch.setattr(WSGIRequestHandler, "log_request", counted)
        walk_file(config, *own, *small, "search.limit=5", "execution.workers=1")
    return count


def table(found: dict[str, dict[str, Any]]) -> Any:
    """The figures of both engines, and the targets."""
    from rich.table import Table

    shown = Table("engine", "what", "measured", "target", "reached")
    rows: list[tuple[str, ...]] = []
    for kind, of in found.items():
        plain = {"dask": "client.map", "ray": "map_batches"}[kind]
        for workers, ours in sorted(of["seconds"].items()):
            theirs = of["plain"][workers]
            name = f"{workers} worker{'s' if workers > 1 else ''}, {of['pairs']:,} pairs"
            rows.append((kind, f"our job, {name}", both(*ours), "", ""))
            rows.append((kind, f"{plain} of predict, {name}", both(*theirs), "", ""))
            wall, cpu = theirs[0] / ours[0], theirs[1] / ours[1]
            reached = "yes" if wall >= 1.2 else "by CPU time" if cpu >= 1.2 else "NO"
            ratios = f"{wall:.2f}, {cpu:.2f}" if ours[1] > 0 else f"{wall:.2f}"
            rows.append((kind, "theirs over ours", ratios, ">= 1.2", reached))
        chunk = of["a chunk"]
        reached = "yes" if chunk <= 0.3 else "NO"
        rows.append((kind, "fixed seconds a chunk", f"{chunk:.2f}", "<= 0.3", reached))
        rows.append((kind, "pairs scored twice after a kill", str(of["twice"]), "", ""))
        rows.append((kind, "pairs stored twice after a kill", str(of["committed twice"]), "", ""))
        rows.append((kind, "requests of a whole job", str(of["requests"]), "", ""))
    for row in rows:
        shown.add_row(*row)
    return shown


def both(wall: float, cpu: float) -> str:
    # The CPU seconds of a process that ended meanwhile, as Ray's actors do, are not to be had.
    return f"{wall:.1f} s, {cpu:.1f} CPU s" if cpu > 0 else f"{wall:.1f} s"


if __name__ == "__main__":
    main()
