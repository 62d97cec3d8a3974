"""A real Prefect server and worker on loopback, and a place that webhooks are posted to."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from flows.commands.deploy import DEAD_HOSTS

PREFECT = [sys.executable, "-m", "prefect"]


class Cluster:
    """A server and a worker with a home of their own."""

    def __init__(self, home: Path, **settings: str) -> None:
        with socket.socket() as place:
            place.bind(("127.0.0.1", 0))
            port = place.getsockname()[1]
        self.home = home
        self.environment = os.environ | {
            "PREFECT_HOME": str(home / "prefect"),
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
            "PREFECT_LOGGING_LEVEL": "WARNING",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "RESCORE_CACHE": os.environ.get("RESCORE_CACHE", str(home / "cache")),
            **settings,
        }
        self.processes = [
            self.start(*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port))
        ]
        until(self.healthy, 120)

    def healthy(self) -> bool:
        """Whether the server answers."""
        try:
            with urlopen(f"{self.environment['PREFECT_API_URL']}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.home / f"{Path(command[-1]).name}.log").open("wb") as log:
            return subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def rescore(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """The installed command."""
        return self.run(str(Path(sys.executable).parent / "rescore"), *arguments)

    def prefect(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(*PREFECT, *arguments)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True)

    def states(self) -> dict[str, str]:
        """State of each flow run by id, newest last."""
        code = (
            "import json\n"
            "from prefect.client.orchestration import get_client\n"
            "with get_client(sync_client=True) as client:\n"
            "    runs = client.read_flow_runs()\n"
            "print(json.dumps({str(r.id): r.state.name for r in runs if r.state}))\n"
        )
        done = self.run(sys.executable, "-c", code)
        return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}

    def automations(self) -> list[str]:
        """The ids of the automations that watch for dead hosts."""
        return self.ask(f"[str(a.id) for a in client.read_automations_by_name({DEAD_HOSTS!r})]")

    def scheduled(self) -> list[str]:
        """The names of flow runs that the server itself has planned."""
        return self.ask("[r.name for r in client.read_flow_runs() if r.state_type == 'SCHEDULED']")

    def ask(self, expression: str) -> Any:
        """What the server's client answers."""
        code = (
            "import json\n"
            "from prefect.client.orchestration import get_client\n"
            f"with get_client(sync_client=True) as client: print(json.dumps({expression}))\n"
        )
        done = self.run(sys.executable, "-c", code)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def worker(self) -> None:
        """Start a worker on the pool."""
        command = [*PREFECT, "worker", "start", "--type", "process", "--pool", "rescore"]
        self.processes.append(self.start(*command))

    def stop(self) -> None:
        for process in reversed(self.processes):
            os.killpg(process.pid, signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def until(true: Callable[[], Any], seconds: float) -> Any:
    """What `true` returns once it is true; fails where it never is."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(1)
    pytest.fail(f"not within {seconds} s: {true}")


def children(cluster: Cluster) -> list[int]:
    """Processes that run a flow for the worker."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().decode().replace("\0", " ")
                home = f"PREFECT_HOME={cluster.home}".encode()
                if "prefect.engine" in command or "flow_engine" in command:
                    if home in (entry / "environ").read_bytes():
                        found.append(int(entry.name))
            except OSError:
                continue
    return found


@contextmanager
def listening() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A URL, and what was posted to it as JSON so far."""
    heard: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            heard.append(json.loads(self.rfile.read(length)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Hook) as hook:
        threading.Thread(target=hook.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{hook.server_port}/hook", heard
        hook.shutdown()
