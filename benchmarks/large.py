"""One larger job through the flow itself: its time outside the model, its peak memory."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.texts import Texts

CHUNKS = 4
_PER_QUERY = 1.9  # candidates of both legs together, per document of the limit


@dataclass(frozen=True)
class Job:
    """What a process of its own is to do."""

    texts: Texts
    model: Path
    device: str
    limit: int
    queries: int
    chunk_queries: int


def large(texts: Texts, model: Path, device: str, pairs: int, limit: int = 50) -> dict[str, Any]:
    """About `pairs` pairs in four chunks, and one chunk alone; each in a process of its own."""
    chunk = max(1, round(pairs / CHUNKS / (_PER_QUERY * limit)))
    jobs = [Job(texts, model, device, limit, n * chunk, chunk) for n in (1, CHUNKS)]
    alone, whole = (_in_a_process(job) for job in jobs)
    return {
        **whole,
        "text": texts.name,
        "chunk_queries": chunk,
        "peak_mb_of_one_chunk": alone["peak_mb"],
        "pairs_of_one_chunk": alone["pairs"],
    }


def _in_a_process(job: Job) -> dict[str, Any]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_run, (job,))


def _run(job: Job) -> dict[str, Any]:
    """The flow on a fresh database; the server, the ingest and the model's loading come before."""
    os.environ["PREFECT_LOGGING_LEVEL"] = os.environ["PREFECT_SERVER_LOGGING_LEVEL"] = "CRITICAL"
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    from prefect.testing.utilities import prefect_test_harness

    from benchmarks.pipeline import Side, keep_models_loaded, timed_scorer
    from flows.rescore import rescore

    keep_models_loaded()
    with tempfile.TemporaryDirectory() as folder, prefect_test_harness(server_startup_timeout=240):
        side = Side(job.texts, job.model, Path(folder), job.device, job.limit)
        queries = job.texts.asked(0, job.queries)
        config = side.config("made", queries, chunk_queries=job.chunk_queries)
        taken_in = config.documents.model_copy(update={"source": None})
        config = config.model_copy(update={"documents": taken_in})
        scorer = timed_scorer(config)
        before = _memory("VmRSS")
        _forget_peak()
        began = time.perf_counter()
        said = rescore(config)
        wall = time.perf_counter() - began
    return {
        "pairs": said["scored"],
        "wall": wall,
        "model": scorer.waited.wall,
        "outside": 1 - scorer.waited.wall / wall,
        "pairs_per_second": said["scored"] / wall,
        "seconds": said["seconds"],
        "before_mb": before,
        "peak_mb": _memory("VmHWM"),
    }


def _memory(name: str) -> int:
    """MB of this process: VmRSS is resident now, VmHWM the most since the peak was forgotten."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(s.split()[1]) // 1024 for s in lines if s.startswith(name))


def _forget_peak() -> None:
    """Let VmHWM start from what is resident now (Linux, proc(5): clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")
