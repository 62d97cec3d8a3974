"""A real Prefect server and worker on loopback: deploy, fire an event, kill a child, go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from flows.commands.deploy import DEAD_HOSTS
from reranking.arrow import frame
from reranking.runs.listing import list_rows
from reranking.store import Database
from tests.support import tiny
from tests.support.walk import walk_file

pytestmark = pytest.mark.slow

PREFECT = [sys.executable, "-m", "prefect"]


class Cluster:
    """A server and a worker with a home of their own."""

    def __init__(self, home: Path) -> None:
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
        }
        self.processes = [
            self.start(*PREFECT, "server", "start", "--host", "127.0.0.1", "--port", str(port))
        ]
        until(lambda: self.prefect("version").returncode == 0 and self.healthy(port), 120)

    def healthy(self, port: int) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        with (self.home / f"{Path(command[-1]).name}.log").open("wb") as log:
            return subprocess.Popen(
                command, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

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


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        yield made
    finally:
        made.stop()


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


def test_deployed_flows_run_crash_and_go_on(cluster: Cluster, cross_encoder: Path) -> None:
    home = cluster.home
    model = home / "model"
    shutil.copytree(cross_encoder, model)
    tiny.write_jsonl(home / "documents.jsonl", tiny.documents(200))
    asked = tiny.queries([f"{a} {b}" for a in tiny.WORDS for b in tiny.WORDS[:12]])
    tiny.write_jsonl(home / "queries.jsonl", asked)
    (home / "qrels.tsv").write_text("".join(f"q{i:03d} 0 d{i:03d} 1\n" for i in range(100)))
    config = tiny.write_config(
        home,
        model,
        search__chunk_queries=10,
        judgments={"judgment_list": "j", "source": {"format": "trec", "path": "qrels.tsv"}},
    )
    rescore = str(Path(sys.executable).parent / "rescore")
    deployed = cluster.run(rescore, "deploy", str(config), "--json")
    assert deployed.returncode == 0, deployed.stderr
    automations = cluster.automations()
    assert cluster.run(rescore, "deploy", str(config)).returncode == 0  # a second time, too
    assert (
        cluster.automations() == automations and len(automations) == 1
    )  # what is being watched is not forgotten
    cluster.worker()

    # A scheduled run whose child is killed is marked as crashed; the next one continues.
    assert cluster.prefect("deployment", "run", "rescore/nightly-config").returncode == 0
    database = Database(str(home / "db.lancedb"))
    until(lambda: database.open("searches") is not None, 180)
    for pid in until(lambda: children(cluster), 30):
        os.kill(pid, signal.SIGKILL)
    until(lambda: "Crashed" in cluster.states().values(), 90)
    searched = database.need("searches").count_rows()
    assert cluster.prefect("deployment", "run", "rescore/nightly-config").returncode == 0
    until(lambda: "Completed" in cluster.states().values(), 240)
    runs = list_rows(database)
    assert [r["status"] for r in runs] == ["done"]
    assert database.need("searches").count_rows() == 30 > searched
    results = frame(database.read(f"results_{runs[0]['run_id']}"))
    assert results["query_id"].n_unique() == 300

    # A changed model is announced by an event, which starts the reevaluation.
    promoted = cluster.run(
        rescore, "promote", runs[0]["run_id"], "--as", "production", "--config", str(config)
    )
    assert promoted.returncode == 0, promoted.stderr
    shutil.rmtree(model)
    tiny.tiny_cross_encoder(model, seed=8)
    emit = (
        "from prefect.events import emit_event\n"
        "emit_event(event='model.changed', resource={'prefect.resource.id': 'rescore.model.x'})\n"
    )
    assert cluster.run(sys.executable, "-c", emit).returncode == 0
    until(lambda: len(list_rows(database)) == 2, 180)
    until(lambda: list_rows(database)[0]["status"] == "done", 180)
    new = list_rows(database)[0]
    assert new["search_id"] == runs[0]["search_id"] and new["reranker"] != runs[0]["reranker"]


def test_restored_tables_pass_the_doctor(tmp_path: Path, cross_encoder: Path) -> None:
    """Back-up and restore as docs/operations.md describes them: the folder is copied."""
    tiny.write_jsonl(tmp_path / "documents.jsonl", tiny.documents())
    tiny.write_jsonl(tmp_path / "queries.jsonl", tiny.queries(["river"]))
    config = tiny.write_config(tmp_path, cross_encoder)
    run, _ = walk_file(config)
    shutil.copytree(tmp_path / "db.lancedb", tmp_path / "backup")
    shutil.rmtree(tmp_path / "db.lancedb")
    shutil.copytree(tmp_path / "backup", tmp_path / "db.lancedb")
    from configs.load import load_config
    from flows.commands.doctor import examine, worst_code

    findings = examine(load_config(config), config)
    assert worst_code(findings) == 0, findings
    again, counts = walk_file(config)
    assert again.run_id == run.run_id and counts == {}


def test_a_schedule_fires_by_itself(cluster: Cluster, cross_encoder: Path) -> None:
    """Deployed as the README says, nothing started by hand: the server plans, the worker works."""
    home = cluster.home
    tiny.write_jsonl(home / "documents.jsonl", tiny.documents(20))
    tiny.write_jsonl(home / "queries.jsonl", tiny.queries(["river", "stone bridge"]))
    every_minute = dict.fromkeys(["ingest", "maintain"], None) | {"rescore": "* * * * *"}
    config = tiny.write_config(home, cross_encoder, name="shop", schedule=every_minute)
    rescore = str(Path(sys.executable).parent / "rescore")
    deployed = cluster.run(rescore, "deploy", str(config), "--json")
    assert deployed.returncode == 0, deployed.stderr
    rows = json.loads(deployed.stdout.splitlines()[-1])["deployments"]
    planned = {row["deployment"]: row["next_run"] for row in rows}
    assert planned["rescore/nightly-shop"] and planned["ingest/nightly-shop"] is None
    until(cluster.scheduled, 120)
    cluster.worker()
    database = Database(str(home / "db.lancedb"))
    until(lambda: [r for r in list_rows(database) if r["status"] == "done"], 240)
    until(lambda: "Completed" in cluster.states().values(), 60)

    removed = cluster.run(rescore, "deploy", str(config), "--remove", "--json")
    assert removed.returncode == 0, removed.stderr
    assert "nightly-shop" in json.loads(removed.stdout.splitlines()[-1])["removed"]
    assert cluster.ask("[d.name for d in client.read_deployments()]") == []


def test_a_failed_run_is_told_to_a_url_and_its_log_has_our_lines(
    cluster: Cluster, cross_encoder: Path
) -> None:
    home = cluster.home
    tiny.write_jsonl(home / "documents.jsonl", tiny.documents(20))
    tiny.write_jsonl(home / "queries.jsonl", tiny.queries(["river"]))
    config = tiny.write_config(home, cross_encoder, name="told")
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
        rescore = str(Path(sys.executable).parent / "rescore")
        url = f"http://127.0.0.1:{hook.server_port}/hook"
        deployed = cluster.run(rescore, "deploy", str(config), "--notify", url, "--json")
        assert deployed.returncode == 0, deployed.stderr
        until(cluster.scheduled, 120)
        looked = cluster.run(rescore, "doctor", str(config), "--json")
        findings = json.loads(looked.stdout.splitlines()[-1])["findings"]
        said = {f["what"]: f for f in findings}["scheduled runs"]
        assert said["code"] == 0 and "the next run of told is planned for" in said["detail"]
        (home / "documents.jsonl").unlink()
        cluster.worker()
        assert cluster.prefect("deployment", "run", "rescore/nightly-told").returncode == 0
        until(lambda: heard, 180)
        hook.shutdown()
    assert "ended as Failed" in heard[0]["text"] and "documents.jsonl" in heard[0]["text"]
    lines = cluster.ask("[log.message for log in client.read_logs()]")
    assert any("ingest: begun" in line for line in lines), lines


def test_a_run_whose_host_died_is_marked_and_the_next_one_goes_on(
    cluster: Cluster, cross_encoder: Path
) -> None:
    """The worker and the run die together; nobody is left to tell the server but its automation."""
    cluster.environment["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] = "30"  # the least that Prefect takes
    home = cluster.home
    tiny.write_jsonl(home / "documents.jsonl", tiny.documents(300))
    asked = tiny.queries([f"{a} {b}" for a in tiny.WORDS for b in tiny.WORDS])
    tiny.write_jsonl(home / "queries.jsonl", asked)
    config = tiny.write_config(home, cross_encoder, search__chunk_queries=5)
    rescore = str(Path(sys.executable).parent / "rescore")
    deployed = cluster.run(rescore, "deploy", str(config))
    assert deployed.returncode == 0, deployed.stderr
    cluster.worker()
    assert cluster.prefect("deployment", "run", "rescore/nightly-config").returncode == 0
    database = Database(str(home / "db.lancedb"))
    until(lambda: database.open("searches") is not None, 180)
    worker = cluster.processes.pop()
    for pid in children(cluster):
        os.kill(pid, signal.SIGKILL)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    assert "Running" in cluster.states().values()
    until(lambda: "Crashed" in cluster.states().values(), 240)
    cluster.worker()
    assert cluster.prefect("deployment", "run", "rescore/nightly-config").returncode == 0
    until(lambda: "Completed" in cluster.states().values(), 300)
    assert [r["status"] for r in list_rows(database)] == ["done"]
