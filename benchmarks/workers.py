"""One worker and two: the same job by the clock and in CPU time, and what a shard costs by itself.

    python -m benchmarks.workers --queries 64 --rounds 2

Every worker has one thread, so two workers have twice the cores of one. On a machine with other
work the clock says little; the CPU seconds of all processes together say what spreading adds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

VARIANTS = {
    "1 process": [],
    "2 threads": ["execution.runner=threads", "execution.workers=2"],
    "2 processes": ["execution.runner=processes", "execution.workers=2"],
}
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "LANCE_LOG": "error",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_LEVEL": "ERROR",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}


def main() -> None:
    """Run every variant in turn, `--rounds` times, and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--documents", type=int, default=2000)
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument(
        "--model", default="builtin:minilm-reranker", help="cross-encoder, or `tiny`"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--child", nargs=2, metavar=("CONFIG", "OVERRIDES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(job(Path(options.child[0]), json.loads(options.child[1]))))
        return
    os.environ.update(ENVIRONMENT)
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    found: dict[str, list[dict[str, Any]]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as folder, prefect_test_harness(server_startup_timeout=180):
        env = os.environ | {"PREFECT_API_URL": PREFECT_API_URL.value()}
        config = world(Path(folder), options)
        for turn in range(options.rounds):
            for name, overrides in VARIANTS.items():
                here = [*overrides, f"database={folder}/{name.replace(' ', '')}{turn}"]
                found[name].append(child(config, here, env))
    show(found, options.chunks)


def world(folder: Path, options: argparse.Namespace) -> Path:
    """A config of `--queries` queries over documents of a few dozen words, in chunks."""
    from benchmarks.texts import random_job
    from tests.support.tiny import tiny_cross_encoder

    model = options.model
    if model == "tiny":
        model = str(tiny_cross_encoder(folder / "model"))
    return random_job(
        folder,
        options.documents,
        options.queries,
        model,
        search__limit=options.limit,
        search__chunk_queries=-(-options.queries // options.chunks),
    )


def child(config: Path, overrides: list[str], env: dict[str, str]) -> dict[str, Any]:
    """The job in a process of its own: its own report and the CPU seconds of all its processes."""
    command = [sys.executable, "-m", "benchmarks.workers", "--child", str(config)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(  # noqa: S603 - our own module
        [*command, json.dumps(overrides)], env=env, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(done.stdout.splitlines()[-1]) | {"cpu": cpu}


def job(config: Path, overrides: list[str]) -> dict[str, Any]:
    """The flow, after an ingest that does not count."""
    import torch

    from configs.load import load_config
    from flows.ingest import ingest
    from flows.rescore import rescore

    torch.set_num_threads(1)
    loaded = load_config(config, overrides)
    ingest(loaded)
    started = time.perf_counter()
    done = rescore(loaded)
    return {
        "clock": time.perf_counter() - started,
        "pairs": done["pairs"],
        **{stage: done["seconds"].get(stage, 0.0) for stage in ("search", "score", "lookup")},
    }


def show(found: dict[str, list[dict[str, Any]]], chunks: int) -> None:
    """Print a row per variant, and the CPU seconds that two workers add, per shard."""
    print(f"{'':14} {'clock s':>9} {'CPU s':>9} {'in the model s':>15} {'x by clock':>11}")
    mid = {n: {k: median(r[k] for r in rows) for k in rows[0]} for n, rows in found.items()}
    alone = mid["1 process"]
    for name, row in mid.items():
        ratio = alone["clock"] / row["clock"]
        times = f"{row['clock']:9.1f} {row['cpu']:9.1f} {row['score']:15.1f}"
        print(f"{name:14} {times} {ratio:11.2f}")
    for name, row in mid.items():
        if name != "1 process":
            extra = row["cpu"] - alone["cpu"]
            print(f"{name}: {extra:+.1f} CPU s in all, {extra / chunks:+.2f} per shard")
    print(f"{int(alone['pairs'])} pairs in {chunks} chunks, {len(found['1 process'])} rounds")


if __name__ == "__main__":
    main()
