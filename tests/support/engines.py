"""Real Dask and Ray clusters on this machine, started by the engines' own command lines."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
MODULES = {"dask": "distributed", "ray": "ray"}
MARK = "RESCORE_TEST_CLUSTER"
"""Set in every process of a cluster of ours: what a worker says of itself shows where it is."""


TOKEN = secrets.token_hex(32)
"""Of every Ray that a process of tests starts: its client reads the first one and keeps it."""


class Engine:
    """A cluster of one kind, whose processes end with it."""

    name = ""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            MARK: self.name,
            **environment,
        }
        self.environment.pop("PREFECT_API_URL", None)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.address = ""

    def settings(self, *more: str) -> list[str]:
        """The overrides that send a job here."""
        return [f"execution.runner={self.name}", f"execution.address={self.address}", *more]

    def start(self, log: str, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start one of the engine's commands."""
        with (self.folder / f"{log}.log").open("wb") as out:
            process = subprocess.Popen(
                command,
                env=self.environment | environment,
                stdout=out,
                stderr=out,
                cwd=self.folder,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def said(self) -> str:
        """What the cluster's processes wrote."""
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"{p.name}: {p.read_text('utf-8', 'replace')[-3000:]}" for p in logs)

    def stop(self) -> None:
        """End every process that was started, and those that these have started."""
        for process in reversed(self.processes):
            end(process.pid)
            process.wait()


def broken(folder: Path) -> str:
    """A path on which our packages cannot be imported."""
    path = folder / "broken"
    for name in ("reranking", "configs", "lancedb", "torch", "polars"):
        (path / name).mkdir(parents=True, exist_ok=True)
        (path / name / "__init__.py").write_text(f"raise ImportError('{name} is not for you')")
    return str(path)


def end(pid: int) -> None:
    """Kill a process and its descendants."""
    import psutil  # comes with either engine

    try:
        root = psutil.Process(pid)
        family = [*root.children(recursive=True), root]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(family, timeout=30)


def until(true: Callable[[], Any], engine: Engine | None = None) -> Any:
    """What `true` returns once it is true; fails when a process of the engine has ended."""
    while True:
        if found := true():
            return found
        for process in [] if engine is None else engine.processes:
            assert process.poll() is None, f"{process.args} ended. {engine and engine.said()}"
        time.sleep(0.1)


class Dask(Engine):
    """`dask scheduler`, and a `dask worker` process for each worker."""

    name = "dask"

    def __init__(self, folder: Path, workers: int = 1, *options: str, **environment: str) -> None:
        super().__init__(folder, **environment)
        self._file = folder / "scheduler.json"
        self.start(
            "scheduler",
            *(str(BIN / "dask"), "scheduler", "--host", "127.0.0.1", "--port", "0"),
            *("--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(self._file)),
            # A scheduler needs nothing of ours.
            PYTHONPATH=f"{broken(folder)}:{REPOSITORY}",
        )
        until(lambda: self._file.exists() and self._file.read_text().endswith("}"), self)
        import json

        self.address = json.loads(self._file.read_text())["address"]
        for _ in range(workers):
            self.add(*options)
        self.until_there(workers)

    def add(self, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start one more worker, as `dask worker` does by default unless there are options."""
        number = len(self.processes)
        return self.start(
            f"worker-{number}",
            *(str(BIN / "dask"), "worker", self.address, "--host", "127.0.0.1", *options),
            *("--local-directory", str(self.folder / "scratch")),
            **environment,
        )

    def until_there(self, workers: int) -> None:
        """Wait until the scheduler knows so many workers."""
        from distributed import Client

        from reranking.workers.on_dask import workers_of

        with Client(self.address, timeout=60) as client:
            until(lambda: len(workers_of(client)) >= workers, self)


class Ray(Engine):
    """`ray start --head`: a node with a GCS, a raylet and its workers; a token keeps others out."""

    name = "ray"

    def __init__(self, folder: Path, cpus: int = 2, gpus: int = 0, **environment: str) -> None:
        token = folder / "token"
        token.write_text(TOKEN)
        self.client = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        super().__init__(folder, **self.client, RAY_USAGE_STATS_ENABLED="0", **environment)
        self.session = tempfile.mkdtemp(prefix="ray-")  # a socket's path must be short
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self.start(
            "ray",
            *(str(BIN / "ray"), "start", "--head", "--block", "--port", str(port)),
            *("--num-cpus", str(cpus), "--num-gpus", str(gpus), "--temp-dir", self.session),
            *("--include-dashboard", "false", "--disable-usage-stats"),
            *("--object-store-memory", "100000000"),
        )
        until(lambda: "Ray runtime started" in self.said(), self)

    def stop(self) -> None:
        super().stop()
        shutil.rmtree(self.session, ignore_errors=True)


def free_port() -> int:
    """A port that nobody uses, outside the ports of Ray's workers."""
    while True:
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            port = int(place.getsockname()[1])
        if port >= 20000:
            return port


@contextmanager
def cluster(kind: str, folder: Path, workers: int = 2, **environment: str) -> Iterator[Engine]:
    """A cluster of a kind with so many workers of one thread."""
    folder.mkdir(parents=True, exist_ok=True)
    engine: Engine
    if kind == "dask":
        engine = Dask(folder, workers, "--nthreads", "1", **environment)
    else:
        engine = Ray(folder, cpus=workers, **environment)
    try:
        yield engine
    finally:
        engine.stop()


def listeners(pids: Sequence[int]) -> Mapping[str, list[str]]:
    """Where each of the processes and their descendants listens: addresses by command."""
    import psutil

    found: dict[str, list[str]] = {}
    for pid in pids:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            try:
                sockets = process.net_connections("tcp")
                name = process.name()
            except psutil.Error:
                continue
            places = [s.laddr.ip for s in sockets if s.status == psutil.CONN_LISTEN]
            if places:
                found.setdefault(name, []).extend(places)
    return found


def need(kind: str) -> str:
    """The engine, if its extra is installed; the test is skipped where it is not."""
    if importlib.util.find_spec(MODULES[kind]) is None:
        pytest.skip(f"the extra {kind} is not installed: make test-cluster installs it")
    return kind
