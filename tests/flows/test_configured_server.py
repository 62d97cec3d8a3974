"""Which Prefect server is configured, and what is said of one that cannot be worked with."""

from __future__ import annotations

import json
import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest

from flows.commands.server import (
    Server,
    ask_loopback_directly,
    check,
    configured,
    prepare,
)
from reranking.errors import ConfigError, MissingPrerequisite
from tests.support.certificate import own_certificate

WELL = {"/api/health": (200, True), "/api/admin/version": (200, version("prefect"))}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder and a home without any setting of Prefect."""
    for name in [n for n in os.environ if n.startswith("PREFECT_") or "proxy" in n.lower()]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def profile(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "profiles.toml").write_text(text)
    return folder / "profiles.toml"


def test_nothing_is_configured(bare: Path) -> None:
    assert configured() is None
    profile(bare / "home" / ".prefect", 'active = "ephemeral"\n[profiles.ephemeral]\n')
    assert configured() is None


OTHER_SETTINGS = [".env", "named", "built in", "prefect.toml", "py"]


@pytest.mark.parametrize(
    "settings",
    ["active", *(pytest.param(s, marks=pytest.mark.slow) for s in OTHER_SETTINGS)],
)
def test_it_is_the_server_that_prefect_itself_would_use(
    bare: Path, monkeypatch: pytest.MonkeyPatch, settings: str
) -> None:
    url = "http://example.test:4200/api"
    text = f'active = "a"\n[profiles.a]\n[profiles.b]\nPREFECT_API_URL = "{url}"\n'
    if settings == "active":
        profile(bare / "home" / ".prefect", text.replace('active = "a"', 'active = "b"'))
    elif settings == "named":
        monkeypatch.setenv("PREFECT_HOME", str(bare / "elsewhere"))
        profile(bare / "elsewhere", text)
        monkeypatch.setenv("PREFECT_PROFILE", "b")
    elif settings == "built in":
        monkeypatch.setenv("PREFECT_PROFILE", "local")
        url = "http://127.0.0.1:4200/api"
    elif settings == ".env":
        (bare / ".env").write_text(f"OTHER=1\nPREFECT_API_URL='{url}'\n")
    elif settings == "prefect.toml":
        (bare / "prefect.toml").write_text(f'[api]\nurl = "{url}"\n')
    else:
        (bare / "pyproject.toml").write_text(f'[tool.prefect.api]\nurl = "{url}"\n')
    found = configured()
    assert found is not None and found.url == url
    import subprocess
    import sys

    code = "from prefect.settings import PREFECT_API_URL as u; print(u.value())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == url


def test_the_environment_goes_before_the_profile(
    bare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile(
        bare / "home" / ".prefect",
        'active = "b"\n[profiles.b]\nPREFECT_API_URL = "http://b/api"\nPREFECT_API_KEY = "k"\n',
    )
    monkeypatch.setenv("PREFECT_API_URL", "http://a/api")
    found = configured()
    assert found is not None and found.url == "http://a/api"
    assert found.origin == "PREFECT_API_URL of the environment"
    assert found.settings["PREFECT_API_KEY"] == "k"


def test_a_broken_profile_is_named(bare: Path) -> None:
    path = profile(bare / "home" / ".prefect", "active = \n")
    with pytest.raises(ConfigError, match="is not TOML") as caught:
        configured()
    assert str(path) in str(caught.value)


@contextmanager
def answering(
    answers: dict[str, tuple[int, object]], certificate: Path | None = None
) -> Iterator[str]:
    """A server of this machine that gives these answers, by TLS if it has one; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, body = answers.get(self.path, (404, "nothing"))
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    scheme = "http" if certificate is None else "https"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"{scheme}://127.0.0.1:{server.server_port}/api"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize("proxy", [None, "http://127.0.0.1:9"])
def test_a_server_of_this_machine_is_asked_directly(
    monkeypatch: pytest.MonkeyPatch, proxy: str | None
) -> None:
    if proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
    with answering(WELL) as url:
        check(Server(url, "a test", {}))


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"/api/health": (401, "no")}, ["refuses us (401", "PREFECT_API_KEY"]),
        ({"/api/health": (500, "no")}, ["answers 500"]),
        ({}, ["answers 404", "should end in /api"]),
        (
            {"/api/health": (200, True), "/api/admin/version": (200, "2.20.1")},
            ["is 2.20.1", "same major version"],
        ),
    ],
)
def test_what_is_wrong_with_a_server_is_said(
    answers: dict[str, tuple[int, object]], words: list[str]
) -> None:
    with answering(answers) as url, pytest.raises(MissingPrerequisite) as caught:
        check(Server(url, "profile 'x' of y", {}))
    for word in [url, "profile 'x' of y", "unset it", *words]:
        assert word in str(caught.value)


def test_a_companys_certificate_is_named_by_its_variable(bare: Path) -> None:
    """It is needed, and it is enough: the certificate is one that nobody else knows."""
    own = own_certificate(bare)
    with answering(WELL, own) as url:
        with pytest.raises(MissingPrerequisite, match="PREFECT_API_SSL_CERT_FILE"):
            check(Server(url, "a test", {}))
        check(Server(url, "a test", {"PREFECT_API_SSL_CERT_FILE": str(own)}))
        check(Server(url, "a test", {"PREFECT_API_TLS_INSECURE_SKIP_VERIFY": "true"}))
        with pytest.raises(MissingPrerequisite, match="gone.pem.*cannot be read"):
            check(Server(url, "a test", {"PREFECT_API_SSL_CERT_FILE": str(bare / "gone.pem")}))


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/api", "ftp://x", "nonsense", "http://"])
def test_a_server_that_is_not_there(url: str) -> None:
    with pytest.raises(MissingPrerequisite) as caught:
        check(Server(url, "a test", {}))
    assert "a test" in str(caught.value)


def test_no_secret_is_shown() -> None:
    server = Server("http://user:secret@127.0.0.1:9/api?token=secret", "a test", {})
    with pytest.raises(MissingPrerequisite) as caught:
        check(server)
    assert "secret" not in str(caught.value) and "127.0.0.1:9" in str(caught.value)


def test_loopback_is_excepted_from_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "intranet.test")
    monkeypatch.setenv("no_proxy", "*")
    ask_loopback_directly()
    assert os.environ["NO_PROXY"] == "intranet.test,127.0.0.1,localhost,::1"
    assert os.environ["no_proxy"] == "*"


def test_a_home_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "file" / "prefect"))
    with pytest.raises(MissingPrerequisite, match="PREFECT_HOME") as caught:
        prepare(None)
    assert str(tmp_path / "file" / "prefect") in str(caught.value)
