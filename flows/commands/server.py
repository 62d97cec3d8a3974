"""Which Prefect server is configured, read without Prefect, and whether it can be worked with."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from reranking.errors import ConfigError, MissingPrerequisite

if TYPE_CHECKING:
    import ssl

_MOST_BYTES = 4_000_000
_SECONDS = 8.0  # to wait for a server's answer
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_BUILT_IN = {"local": {"PREFECT_API_URL": "http://127.0.0.1:4200/api"}}
_UNSET = "unset it to work in this process"


@dataclass(frozen=True)
class Server:
    """The address of a server, where it is configured, and the settings that go with it."""

    url: str
    origin: str
    settings: Mapping[str, str]

    @property
    def shown(self) -> str:
        """The address without the secrets that it may hold."""
        return urlsplit(self.url)._replace(netloc=_host(self.url), query="").geturl()


def configured() -> Server | None:
    """Return the server that Prefect would use; None if it would start a temporary one.

    Read are the environment, `.env`, `prefect.toml` and `pyproject.toml` of this folder, and the
    active profile, in Prefect's order. Raises ConfigError for a file that cannot be read.
    """
    places = list(_places())
    url = next((values["PREFECT_API_URL"] for _, values in places if _url(values)), None)
    if url is None:
        return None
    origin = next(origin for origin, values in places if _url(values))
    settings: dict[str, str] = {}
    for _, values in reversed(places):
        settings |= values
    return Server(url, origin, settings)


def _url(values: Mapping[str, str]) -> str | None:
    return values.get("PREFECT_API_URL") or None


def _places() -> Iterator[tuple[str, dict[str, str]]]:
    """Where Prefect reads its settings, the first one that has a setting decides."""
    yield "PREFECT_API_URL of the environment", dict(os.environ)
    yield "PREFECT_API_URL in .env", _dotenv(Path(".env"))
    for name, keys in (("prefect.toml", ()), ("pyproject.toml", ("tool", "prefect"))):
        yield f"api.url in {name}", _api_of(_toml(Path(name)), keys)
    yield from _profile()


def _dotenv(path: Path) -> dict[str, str]:
    lines = _text(path).splitlines()
    pairs = [line.removeprefix("export ").partition("=") for line in lines if "=" in line]
    return {name.strip(): value.strip().strip("'\"") for name, _, value in pairs}


def _api_of(values: Any, keys: tuple[str, ...]) -> dict[str, str]:
    for key in (*keys, "api"):
        values = values.get(key, {}) if isinstance(values, dict) else {}
    return {f"PREFECT_API_{name.upper()}": str(value) for name, value in dict(values).items()}


def _profile() -> Iterator[tuple[str, dict[str, str]]]:
    home = os.environ.get("PREFECT_HOME") or "~/.prefect"
    given = os.environ.get("PREFECT_PROFILES_PATH")
    try:
        path = Path(given) if given else Path(home).expanduser() / "profiles.toml"
    except RuntimeError:  # no HOME, and no passwd entry
        return
    known = _toml(path)
    name = os.environ.get("PREFECT_PROFILE") or known.get("active")
    profiles = known.get("profiles", {})
    values = profiles.get(name, _BUILT_IN.get(str(name), {}))
    if isinstance(values, dict):
        yield f"profile {name!r} of {path}", {k: str(v) for k, v in values.items()}


def _toml(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(_text(path))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(
            f"{path}, which may name a Prefect server, is not TOML: {error}. Mend it or move it "
            "away"
        ) from None


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, UnicodeDecodeError) as error:
        if path.name == "profiles.toml" and isinstance(error, PermissionError):
            return ""  # somebody else's home: no profile of this user
        fault = f"{path}, which may name a Prefect server, cannot be read: {error}"
        raise ConfigError(fault) from None


def prepare(server: Server | None) -> None:
    """Make sure that a flow run can be recorded, before Prefect is imported.

    None is the temporary server. Servers of this machine are asked directly, whatever proxy is
    set. Raises MissingPrerequisite if the server cannot be worked with, within seconds.
    """
    ask_loopback_directly()
    _need_socks()
    if server is not None:
        check(server)
        return
    home = Path(os.environ.get("PREFECT_HOME") or _home() / ".prefect")
    try:
        home.mkdir(parents=True, exist_ok=True)
        probe = home / f".rescore-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise MissingPrerequisite(
            f"the temporary Prefect server keeps its database in {home} (PREFECT_HOME, or .prefect "
            f"in HOME), which cannot be written: {error}. Set PREFECT_HOME to a folder that can, "
            "or leave out --server to work in this process"
        ) from None


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        raise MissingPrerequisite(
            "HOME is not set and this user has no home folder: the temporary Prefect server has no "
            "place for its database. Set PREFECT_HOME to a folder, or leave out --server"
        ) from None


def ask_loopback_directly() -> None:
    """Except this machine's own addresses from any proxy that the environment names."""
    for name in ("NO_PROXY", "no_proxy"):
        given = [part.strip() for part in os.environ.get(name, "").split(",") if part.strip()]
        if "*" not in given:
            missing = [host for host in _LOOPBACK if host not in given]
            os.environ[name] = ",".join([*given, *missing])


def _need_socks() -> None:
    """Prefect's client opens a SOCKS proxy even for servers that it asks directly."""
    for name in _PROXIES:
        for given in (name, name.upper()):
            if os.environ.get(given, "").startswith("socks") and find_spec("socksio") is None:
                raise MissingPrerequisite(
                    f"{given} names a SOCKS proxy, for which Prefect's client needs the package "
                    f"socksio: `pip install socksio`, or unset {given}"
                )


def check(server: Server) -> None:
    """Ask the server for its health and version.

    Raises MissingPrerequisite if it does not answer, refuses, or is of another major version.
    """
    from importlib.metadata import version

    parts = urlsplit(server.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise MissingPrerequisite(
            f"{server.shown!r} ({server.origin}) is no address of a Prefect server: expected "
            f"something like http://127.0.0.1:4200/api; correct it, or {_UNSET}"
        )
    _ask(server, "health")
    reply = _ask(server, "admin/version", needed=False)
    if reply is None:  # Prefect Cloud does not tell
        return
    try:
        theirs = str(json.loads(reply))
    except ValueError:
        theirs = "of an unknown version"
    ours = version("prefect")
    if theirs.partition(".")[0] != ours.partition(".")[0]:
        raise MissingPrerequisite(
            f"the Prefect server at {server.shown} ({server.origin}) is {theirs[:40]}, this is "
            f"Prefect {ours}: a server of the same major version is needed. Upgrade it, name "
            f"another one, or {_UNSET}"
        )


def ask_for(server: Server, path: str, wanted: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that the server has of what is wanted, by its REST interface."""
    rows: list[dict[str, Any]] = json.loads(_ask(server, path, body=wanted) or b"[]")
    return rows


def _ask(
    server: Server, path: str, needed: bool = True, body: Mapping[str, Any] | None = None
) -> bytes | None:
    """The server's answer, to a POST if there is a body; None if not needed and not given."""
    import ssl
    import urllib.error
    import urllib.request

    where = f"the Prefect server at {server.shown} ({server.origin})"
    url = f"{server.url.rstrip('/')}/{path}"
    headers, data = _headers(server), None
    if body is not None:
        headers, data = headers | {"Content-Type": "application/json"}, json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)  # noqa: S310 - checked: http
    handlers: list[urllib.request.BaseHandler] = []
    if urlsplit(server.url).hostname in _LOOPBACK:
        handlers.append(urllib.request.ProxyHandler({}))
    if server.url.startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(context=_tls(server)))
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=_SECONDS / 2) as answer:
            content: bytes = answer.read(_MOST_BYTES)
            return content
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise MissingPrerequisite(
                f"{where} refuses us ({error.code} {error.reason}): set PREFECT_API_KEY or "
                f"PREFECT_API_AUTH_STRING to what it expects, or {_UNSET}"
            ) from None
        if not needed and error.code == 404:
            return None
        raise MissingPrerequisite(
            f"{where} answers {error.code} {error.reason} to {path}, not as Prefect does: the "
            f"address should end in /api. Correct it, or {_UNSET}"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        hint = ""
        if isinstance(reason, ssl.SSLError):
            hint = " (a company's own certificate is named by PREFECT_API_SSL_CERT_FILE)"
        raise MissingPrerequisite(
            f"{where} does not answer: {reason}{hint}. Start it, correct the address, or {_UNSET}"
        ) from None


def _headers(server: Server) -> dict[str, str]:
    settings = server.settings
    if key := settings.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    if given := settings.get("PREFECT_API_AUTH_STRING"):
        return {"Authorization": f"Basic {base64.b64encode(given.encode()).decode()}"}
    return {}


def _tls(server: Server) -> ssl.SSLContext:
    import ssl

    settings = server.settings
    if settings.get("PREFECT_API_TLS_INSECURE_SKIP_VERIFY", "").lower() in ("1", "true"):
        return ssl._create_unverified_context()  # noqa: S323 - the user's choice, for Prefect too
    given = settings.get("PREFECT_API_SSL_CERT_FILE") or os.environ.get("SSL_CERT_FILE")
    try:
        return ssl.create_default_context(cafile=given or None)
    except (OSError, ssl.SSLError) as error:
        raise MissingPrerequisite(
            f"the certificates of PREFECT_API_SSL_CERT_FILE ({given}) cannot be read: {error}"
        ) from None


def _host(url: str) -> str:
    """Host and port of an address, without user and password."""
    return urlsplit(url).netloc.rpartition("@")[2]
