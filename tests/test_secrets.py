"""Secrets of the environment: planted, then looked for in everything that runs wrote or said."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from configs.load import load_config
from reranking.errors import ConfigError, RuntimeFailure
from reranking.store import Database
from tests.support import tiny

SECRET = "geheim-9f3c1b7e5d2a"
MARKER = "marker-4d1c8e0a6b3f"  # is in the data, so the search must find it
VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "HF_TOKEN",
    "LANCEDB_API_KEY",
    "PREFECT_API_KEY",
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module", autouse=True)
def planted() -> Iterator[None]:
    """The secret in every variable that storage, hub or server credentials come from."""
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.setenv(name, SECRET)
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
        patch.setenv("AWS_REGION", "us-east-1")
        yield


@contextmanager
def log() -> Iterator[io.StringIO]:
    """Everything that any logger says meanwhile, down to debug."""
    text = io.StringIO()
    handler, root = logging.StreamHandler(text), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    try:
        yield text
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def values(database: Path) -> str:
    """Every value and every piece of metadata of every table."""
    opened, parts = Database(str(database)), []
    for name in opened.names():
        table = opened.need(name)
        parts += [
            name,
            repr(table.schema.metadata),
            table.schema.to_string(show_field_metadata=True),
        ]
        parts.append(repr(table.to_arrow().to_pylist()))
    return "\n".join(parts)


def files_with(folder: Path, text: str) -> list[Path]:
    """The files whose name or bytes contain the text."""
    found = []
    for path in folder.rglob("*"):
        if text in str(path.relative_to(folder)):
            found.append(path)
        elif path.is_file() and text.encode() in path.read_bytes():
            found.append(path)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> Path:
    made = tmp_path_factory.mktemp("secrets")
    documents = [*tiny.documents(20), {"doc_id": f"bad {MARKER}"}]
    tiny.write_jsonl(made / "documents.jsonl", documents)
    tiny.write_jsonl(made / "queries.jsonl", tiny.queries([f"river {MARKER}", "lamp"]))
    (made / "judgments.tsv").write_text("q000 0 d001 2\nq001 0 d003 1\n")
    tiny.write_config(
        made,
        cross_encoder,
        judgments={
            "judgment_list": "j",
            "source": {"format": "trec", "path": "judgments.tsv"},
            "measures": ["nDCG@10"],
        },
        results={"publish": "shop", "columns": ["title", "query_text"]},
    )
    return made


@pytest.fixture(scope="module")
def written(folder: Path, prefect_server: None) -> dict[str, str]:
    """What one run through Prefect wrote and said, by place."""
    from prefect.client.orchestration import get_client

    from flows.rescore import rescore

    with log() as text:
        summary = rescore(load_config(folder / "config.yaml"))
    client: Any = get_client(sync_client=True)
    artifacts = client.read_artifacts()
    runs = client.read_flow_runs()
    assert artifacts
    assert runs
    return {
        "summary": json.dumps(summary),
        "log": text.getvalue(),
        "tables": values(folder / "db.lancedb"),
        "artifacts": repr([a.model_dump() for a in artifacts]),
        "flow runs": repr([r.model_dump() for r in runs]),
    }


def test_a_run_writes_no_secret_anywhere(folder: Path, written: dict[str, str]) -> None:
    assert MARKER in written["tables"]  # rejects and queries: the search does look into values
    assert str(folder) in written["flow runs"]
    for place, text in written.items():
        assert SECRET not in text, place
    assert files_with(folder, MARKER)
    assert files_with(folder, SECRET) == []


def test_prefects_own_database_has_no_secret(written: dict[str, str]) -> None:
    from prefect.settings import get_current_settings

    url = get_current_settings().server.database.connection_url
    assert url is not None
    place = Path(url.get_secret_value().partition(":///")[2]).parent
    assert files_with(place, written["summary"][12:40])  # the run's id, in its artifacts
    assert files_with(place, SECRET) == []


def test_commands_show_no_secret(folder: Path, written: dict[str, str]) -> None:
    from flows.cli import app

    run_id = json.loads(written["summary"])["run_id"]
    for arguments in (
        ["runs"],
        ["runs", "--json"],
        ["show", run_id],
        ["show", run_id, "--json"],
        ["export", run_id, "--format", "jsonl", "--out", str(folder / "out.jsonl")],
    ):
        shown = CliRunner().invoke(app, [*arguments, "--config", str(folder / "config.yaml")])
        assert shown.exit_code == 0, shown.output
        assert SECRET not in shown.output
    assert SECRET not in (folder / "out.jsonl").read_text()


class _Refusing(BaseHTTPRequestHandler):
    """An object store that knows no such key."""

    seen: list[str] = []

    def _answer(self) -> None:
        type(self).seen.append(self.headers.get("Authorization", ""))
        body = b"<Error><Code>AccessDenied</Code><Message>no such key</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _answer  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""


@pytest.fixture
def object_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A local S3 that refuses everything; the Authorization headers that it was sent."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusing)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    _Refusing.seen.clear()
    yield _Refusing.seen
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_refusing_object_store_is_told_without_the_key(
    object_store: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    from flows.cli import app

    with log() as text, pytest.raises(RuntimeFailure) as caught:
        Database("s3://bucket/prefix").names()
    shown = CliRunner().invoke(app, ["runs", "--database", "s3://bucket/prefix"])
    assert any("AKIAEXAMPLE" in header for header in object_store)  # the credentials were used
    assert shown.exit_code == 6
    assert "s3://bucket/prefix cannot be opened" in shown.output
    told = [str(caught.value), repr(caught.value.__cause__), text.getvalue(), shown.output]
    assert SECRET not in "".join([*told, *capfd.readouterr()])


URIS = [
    f"s3://user:{SECRET}@bucket/prefix",
    f"s3://{SECRET}@bucket",
    f"s3://bucket/prefix?aws_secret_access_key={SECRET}",
]


@pytest.mark.parametrize("uri", URIS)
def test_a_uri_with_credentials_is_refused_and_not_repeated(
    uri: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from flows.cli import app

    with pytest.raises(ConfigError, match="must not hold a user") as caught:
        Database(uri)
    assert SECRET not in str(caught.value)
    for arguments in (
        ["runs", "--database", uri],
        ["run", str(folder / "config.yaml"), "--set", f"database={uri}"],
        ["ingest", str(folder / "config.yaml"), "--set", f"documents.source.path={uri}"],
        ["run", str(folder / "config.yaml"), "--set", f"storage_options.secret={SECRET}"],
        ["run", str(folder / "config.yaml"), "--set", f"storage_options.secret=[{SECRET}"],
    ):
        shown = CliRunner().invoke(app, arguments)
        assert shown.exit_code == 2, shown.output
        assert SECRET not in shown.output + "".join(capfd.readouterr())
