"""A real Prefect server and worker on loopback: deploy, fire an event, kill a child, go on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reranking.arrow import frame
from reranking.runs.listing import list_rows
from reranking.store import Database
from tests.support import tiny
from tests.support.cluster import Cluster, children, listening, until
from tests.support.walk import walk_file

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        yield made
    finally:
        made.stop()


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
    deployed = cluster.rescore("deploy", str(config), "--json")
    assert deployed.returncode == 0, deployed.stderr
    automations = cluster.automations()
    assert cluster.rescore("deploy", str(config)).returncode == 0  # a second time, too
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
    promoted = cluster.rescore(
        "promote", runs[0]["run_id"], "--as", "production", "--config", str(config)
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
    deployed = cluster.rescore("deploy", str(config), "--json")
    assert deployed.returncode == 0, deployed.stderr
    rows = json.loads(deployed.stdout.splitlines()[-1])["deployments"]
    planned = {row["deployment"]: row["next_run"] for row in rows}
    assert planned["rescore/nightly-shop"] and planned["ingest/nightly-shop"] is None
    until(cluster.scheduled, 120)
    cluster.worker()
    database = Database(str(home / "db.lancedb"))
    until(lambda: [r for r in list_rows(database) if r["status"] == "done"], 240)
    until(lambda: "Completed" in cluster.states().values(), 60)

    removed = cluster.rescore("deploy", str(config), "--remove", "--json")
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
    with listening() as (url, heard):
        deployed = cluster.rescore("deploy", str(config), "--notify", url, "--json")
        assert deployed.returncode == 0, deployed.stderr
        until(cluster.scheduled, 120)
        looked = cluster.rescore("doctor", str(config), "--json")
        findings = json.loads(looked.stdout.splitlines()[-1])["findings"]
        said = {f["what"]: f for f in findings}["scheduled runs"]
        assert said["code"] == 0 and "the next run of told is planned for" in said["detail"]
        (home / "documents.jsonl").unlink()
        cluster.worker()
        assert cluster.prefect("deployment", "run", "rescore/nightly-told").returncode == 0
        until(lambda: heard, 180)
    assert "ended as Failed" in heard[0]["text"] and "documents.jsonl" in heard[0]["text"]
    lines = cluster.ask("[log.message for log in client.read_logs()]")
    assert any("ingest: begun" in line for line in lines), lines


def test_a_server_that_plans_nothing_is_told_by_the_doctor(
    tmp_path: Path, cross_encoder: Path
) -> None:
    """Its scheduler is dead, and no page of its own says so."""
    tiny.write_jsonl(tmp_path / "documents.jsonl", tiny.documents(20))
    tiny.write_jsonl(tmp_path / "queries.jsonl", tiny.queries(["river"]))
    config = tiny.write_config(tmp_path, cross_encoder, name="silent")
    cluster = Cluster(tmp_path, PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED="false")
    try:
        before = cluster.rescore("doctor", str(config))
        assert "silent is not deployed" in before.stdout
        assert cluster.rescore("deploy", str(config)).returncode == 0
        looked = cluster.rescore("doctor", str(config), "--json")
    finally:
        cluster.stop()
    findings = json.loads(looked.stdout.splitlines()[-1])["findings"]
    said = {f["what"]: f for f in findings}["scheduled runs"]
    assert looked.returncode == said["code"] == 3, looked.stdout
    assert "the server has planned no run of them" in said["detail"]
    assert "its scheduler is dead" in said["detail"]


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
    with listening() as (url, heard):
        _die_and_go_on(cluster, config, url)
        until(lambda: heard, 60)
    assert "ended as Crashed" in heard[0]["text"] and len(heard) == 1


def _die_and_go_on(cluster: Cluster, config: Path, url: str) -> None:
    """Deploy, kill worker and run, wait for the mark, go on; a block of the owner's is told."""
    unknown = cluster.rescore("deploy", str(config), "--notify", "custom-webhook/alerts")
    assert unknown.returncode == 4 and "`prefect block ls` lists them" in unknown.stderr
    block = (
        "from prefect.blocks.notifications import CustomWebhookNotificationBlock as Block\n"
        f"Block(name='alerts', url={url!r}, json_data={{'text': '{{{{subject}}}}'}}).save('alerts')"
    )
    saved = cluster.run(sys.executable, "-c", block)
    assert saved.returncode == 0, saved.stderr
    deployed = cluster.rescore("deploy", str(config), "--notify", "custom-webhook/alerts")
    assert deployed.returncode == 0, deployed.stderr
    home = cluster.home
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
