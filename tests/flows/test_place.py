"""Where a job runs: in this process without a server, with one as a recorded flow run."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL

from reranking.runs.listing import list_rows
from reranking.store import Database
from tests.support import tiny
from tests.support.equal import assert_equal
from tests.support.slow_scorer import Job, Slow
from tests.support.walk import walk_file
from tests.support.world import make_world, undisturbed

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def ask(folder: Path, *arguments: object, server: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own, with this server configured or none."""
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    env |= {"PREFECT_HOME": str(folder / "prefect"), "HOME": str(folder)}
    if server:
        env["PREFECT_API_URL"] = server
    command = [sys.executable, "-m", "flows.cli", *(str(a) for a in arguments)]
    root = Path(__file__).parents[2]
    return subprocess.run(command, env=env, capture_output=True, text=True, cwd=root)


@pytest.mark.slow
def test_a_flow_and_this_process_write_the_same(
    tmp_path: Path, cross_encoder: Path, prefect_server: None
) -> None:
    config = make_world(tmp_path, cross_encoder, documents=40, queries=8)
    (tmp_path / "other").mkdir()
    for path in (*tmp_path.glob("*.jsonl"), tmp_path / "judgments.tsv", config):
        shutil.copyfile(path, tmp_path / "other" / path.name)
    here = ask(tmp_path, "run", config, "--json", "--allow-rejects")
    assert here.returncode == 0, here.stderr
    assert "in this process" in here.stderr
    url = PREFECT_API_URL.value()
    told = ask(
        tmp_path, "run", tmp_path / "other" / config.name, "--json", "--allow-rejects", server=url
    )
    assert told.returncode == 0, told.stderr
    assert f"a flow run on {url}" in told.stderr
    assert_equal(tmp_path / "db.lancedb", tmp_path / "other" / "db.lancedb")
    one, other = (json.loads(done.stdout.splitlines()[-1]) for done in (here, told))
    for values in (one, other):
        for timed in ("seconds", "pairs_per_second", "seconds_saved"):
            values.pop(timed)
        values["documents"].pop("seconds")
        values["consumers"].pop("database")
    assert one == other
    with get_client(sync_client=True) as client:
        names = [run.name for run in client.read_flow_runs(limit=200)]
    assert sum(name.startswith("rescore") for name in names) >= 1


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_it_is_stopped_and_continued_in_this_process(
    tmp_path: Path, cross_encoder: Path, number: signal.Signals, code: int
) -> None:
    config = make_world(tmp_path, cross_encoder, documents=60, queries=12)
    command = ["run", str(config), "--set", "execution.commit_seconds=1000", "--allow-rejects"]
    env = {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_API_URL": ""}
    job = Job(config, Slow(score=0.05), command=command, env=env)
    assert job.reach("score", pairs=20), job.said()
    job.send(number)
    assert job.end() == code, job.said()
    assert "start the same command again to continue" in job.said()
    last = Job(config, Slow(), command=command, env=env)
    assert last.end() == 0, last.said()
    assert last.scored.value > 0
    assert_equal(tmp_path / "db.lancedb", undisturbed(tmp_path))


def test_a_server_that_does_not_answer_stops_the_job_with_its_origin(
    tmp_path: Path, cross_encoder: Path
) -> None:
    config = make_world(tmp_path, cross_encoder, documents=5, queries=2)
    done = ask(tmp_path, "run", config, server="http://127.0.0.1:9/api")
    assert done.returncode == 3
    assert "http://127.0.0.1:9/api (PREFECT_API_URL of the environment)" in done.stderr
    assert "does not answer" in done.stderr
    assert not (tmp_path / "db.lancedb").exists()


PREFECT = {"prefect", "fastapi", "sqlalchemy"}
MODELS = {"torch", "transformers", "sentence_transformers", "sklearn", "scipy"}
HEAVY = PREFECT | MODELS
ALL = HEAVY | {"lancedb", "pyarrow", "polars", "pandas"}  # lancedb imports pandas itself


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    tiny.write_jsonl(folder / "documents.jsonl", tiny.documents())
    tiny.write_jsonl(folder / "queries.jsonl", tiny.queries(["river stone"]))
    config = tiny.write_config(folder, cross_encoder)
    walk_file(config)
    return config


@pytest.mark.parametrize(
    ("arguments", "code", "unwanted"),
    [
        (["--help"], 0, ALL),
        (["--version"], 0, ALL),
        (["run", "CONFIG", "--set", "nonsense=1"], 2, ALL),
        (["run", "CONFIG"], 0, HEAVY),
        *(
            pytest.param(arguments, code, HEAVY, marks=pytest.mark.slow)
            for arguments, code in (
                (["runs", "--config", "CONFIG"], 0),
                (["ingest", "CONFIG"], 0),
                (["maintain", "CONFIG", "--dry-run"], 0),
                (["export", "RUN", "--format", "csv", "--out", "OUT", "--config", "CONFIG"], 0),
                (["show", "RUN", "--config", "CONFIG"], 0),
                (["promote", "RUN", "--as", "a", "--config", "CONFIG"], 0),
                (["watch", "CONFIG", "--set", "comparison.against=a"], 0),
                (["forget", "none", "--config", "CONFIG"], 4),
            )
        ),
    ],
)
def test_nothing_is_imported_before_it_is_used(
    finished: Path, arguments: list[str], code: int, unwanted: set[str]
) -> None:
    [run] = list_rows(Database(str(finished.parent / "db.lancedb")))
    names = {"CONFIG": finished, "OUT": finished.parent / "out", "RUN": run["run_id"]}
    given = [str(names.get(a, a)) for a in arguments]
    program = (
        "import sys\nfrom flows.cli import app\n"
        f"try: app({given!r})\n"
        f"except SystemExit as stop: assert stop.code == {code}, stop.code\n"
        f"loaded = {sorted(unwanted)!r}\n"
        "assert not set(loaded) & set(sys.modules), set(loaded) & set(sys.modules)\n"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    env["PREFECT_HOME"] = str(finished.parent / "prefect")
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
