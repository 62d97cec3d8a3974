"""The job on an object store: an S3 emulator on loopback that only the environment names."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import lancedb
import pyarrow as pa
import pytest
from lancedb.index import FTS
from typer.testing import CliRunner

from flows.cli import app
from reranking.errors import MissingResource
from reranking.runs.listing import list_rows
from reranking.store import Database
from reranking.upkeep.maintain import maintain
from reranking.upkeep.orphans import half_created, stale_files
from tests.support import tiny
from tests.support.equal import assert_equal
from tests.support.object_store import BUCKET, Store, emulator
from tests.support.slow_scorer import Job, Slow, barrier
from tests.support.walk import walk_file
from tests.support.world import make_world, undisturbed


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An empty bucket that this process and its children find in their environment."""
    with emulator() as made:
        for name, value in made.environment.items():
            monkeypatch.setenv(name, value)
        yield made


def world(folder: Path, model: Path, name: str, documents: int, queries: int) -> tuple[Path, Path]:
    """A config whose database is in the bucket, and the local one of an undisturbed job."""
    config = make_world(folder, model, documents, queries)
    local = undisturbed(folder)
    config.write_text(config.read_text().replace("db.lancedb", f"s3://{BUCKET}/{name}"))
    return config, local


def uri(name: str) -> str:
    return f"s3://{BUCKET}/{name}"


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_job_leaves_there_what_it_leaves_in_a_folder(
    tmp_path: Path, cross_encoder: Path, store: Store
) -> None:
    config, local = world(tmp_path, cross_encoder, "db", documents=30, queries=6)
    run, counts = walk_file(config)
    assert counts["scored"] == counts["pairs"] > 0
    assert walk_file(config, ingest=False)[0].finished
    assert_equal(uri("db"), local)
    database = Database(uri("db"), must_exist=True)
    assert database.names() == Database(str(local)).names()
    assert database.tagged("documents", f"run-{run.run_id}") == run.corpus.version
    maintain(database)
    assert_equal(uri("db"), local)
    objects = store.objects("db/")
    assert 20 < len(objects) < 1000
    for key, content in objects.items():
        assert b"planted" not in content, f"{key} holds a credential"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_is_erased_there_is_in_no_object(
    tmp_path: Path, cross_encoder: Path, store: Store
) -> None:
    vector = tiny.documents(1)[0]["vector"]
    one = {"doc_id": "gone-document", "text": "harbor zyxwvdocument", "vector": vector}
    tiny.write_jsonl(tmp_path / "documents.jsonl", [*tiny.documents(30), one])
    asked = tiny.queries(["river stone", "harbor qponmlquery"])
    tiny.write_jsonl(tmp_path / "queries.jsonl", asked)
    publish = {"table": "shop", "database": uri("app")}
    config = tiny.write_config(
        tmp_path,
        cross_encoder,
        database=uri("db"),
        search__limit=40,
        results={"publish": publish, "columns": ["text", "query_text"]},
    )
    run, _ = walk_file(config)

    def objects_with(text: str) -> list[str]:
        every = store.objects("db/") | store.objects("app/")
        return [key for key, content in every.items() if text.encode() in content]

    assert objects_with("zyxwvdocument") and objects_with("qponmlquery")
    for what, id, text in (
        ("--document", "gone-document", "zyxwvdocument"),
        ("--query", "q001", "qponmlquery"),
    ):
        done = CliRunner().invoke(app, ["erase", str(config), what, id, "--unpin", "--json"])
        assert done.exit_code == 0, done.output
        values = json.loads(done.stdout.splitlines()[-1])
        assert {"candidates", "shop"} <= set(values["rows"])
        assert not [text for text in values["left"] if "LanceDB did not remove" in text]
        assert objects_with(text) == []
    assert run.results().num_rows > 0


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_what_is_not_there_is_said(store: Store) -> None:
    with pytest.raises(MissingResource, match="no database at s3://shelf/nowhere"):
        Database(uri("nowhere"), must_exist=True)
    empty = Database(uri("nowhere"))
    assert empty.names() == [] and empty.open("runs") is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_table_that_is_being_created_there_is_left_alone(store: Store) -> None:
    """Its first data file is there, its first commit is not: it has no age that could be seen."""
    store.put("db/runs.lance/data/a.lance", b"x")
    database = Database(uri("db"))
    assert "runs" in database.names() and database.open("runs") is None
    assert half_created(database, timedelta(0)) == []
    assert stale_files(database, database.names(), timedelta(0)) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_documents_and_consumers_may_be_there_and_no_credential_is_left_or_said(
    tmp_path: Path, cross_encoder: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    rows = tiny.documents(20)
    data = {"sku": list(range(20)), "body": [r["text"] for r in rows]}
    kind = pa.list_(pa.float32(), tiny.WIDTH)
    vectors = pa.array([r["vector"] for r in rows], kind)
    table = lancedb.connect(uri("shop")).create_table(
        "products", pa.table(data | {"vector": vectors})
    )
    table.create_index("body", config=FTS())
    tiny.write_jsonl(tmp_path / "queries.jsonl", tiny.queries(["river"]))
    documents = {"table": "products", "managed": False, "id": "sku", "text": "body"}
    config = tiny.write_config(
        tmp_path,
        cross_encoder,
        documents=documents | {"database": uri("shop")},
        results={"publish": {"table": "ranked", "database": uri("app")}, "report": "reports"},
    )
    before = store.objects("shop/")
    with caplog.at_level("DEBUG"):
        results = [
            CliRunner().invoke(app, [*command, str(config), "--json"])
            for command in (["run"], ["doctor"])
        ]
    assert [r.exit_code for r in results] == [0, 0], [r.output for r in results]
    assert store.objects("shop/") == before
    assert lancedb.connect(uri("app")).open_table("ranked").count_rows() > 0
    said = caplog.text + "".join(r.output for r in results)
    written = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
    written += store.objects("app/").values()
    assert "planted" not in said and not [w for w in written if b"planted" in w]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("place", ["s3://nobodys-bucket/db", "az://container/db"])
def test_a_store_that_does_not_answer_ends_the_run_before_it_begins(
    tmp_path: Path,
    cross_encoder: Path,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in {
        **Store("http://127.0.0.1:1").environment,
        "AZURE_STORAGE_ACCOUNT_NAME": "planted",
        "AZURE_STORAGE_ACCOUNT_KEY": "cGxhbnRlZC1zZWNyZXQ=",
        "AZURE_STORAGE_ENDPOINT": "http://127.0.0.1:1",
        "AZURE_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    config = make_world(tmp_path, cross_encoder, 10, 2)
    with caplog.at_level("DEBUG"):
        result = CliRunner().invoke(app, ["run", str(config), "--set", f"database={place}"])
    assert result.exit_code in (3, 4, 6) and place in result.output
    for secret in ("planted-secret", "planted-key-id", "cGxhbnRlZC1zZWNyZXQ"):
        assert secret not in result.output + caplog.text
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == set()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("stage", ["ingest", "search", "score", "publish"])
def test_two_writers_of_which_one_is_killed(
    tmp_path: Path, cross_encoder: Path, store: Store, stage: str
) -> None:
    config, local = world(tmp_path, cross_encoder, stage, documents=40, queries=12)
    slow, start = Slow(ingest=0.02, search=0.1, score=0.1, publish=0.3), barrier(2)
    doomed, other = (
        Job(config, slow, env=store.environment, log=tmp_path / f"{i}.log", start=start)
        for i in range(2)
    )
    assert doomed.reach(stage), doomed.said()
    time.sleep(0.1)
    assert doomed.kill_within(0.2, random.Random(4)) == -signal.SIGKILL
    assert other.end() == 0, other.said()
    assert_equal(uri(stage), local)
    again, _ = walk_file(config)
    (row,) = list_rows(Database(uri(stage)))
    assert again.finished and row["status"] == "done"
