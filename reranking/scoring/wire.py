"""Requests to a server of rerankers: its key, its pauses, and in words what it refuses."""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import random
import threading
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from configs.served import RerankApi
from configs.source import masked
from reranking.errors import ConfigError, MissingPrerequisite, RescoreError, RuntimeFailure

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

_TRIES = 8  # of a request; the pauses between them add up to about a minute
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 32.0
_LONGEST_ASKED = 120.0  # a server may ask for a longer pause, and gets this one
_SECONDS = 120.0  # to wait for an answer
_LATER = (408, 425, 429)  # and all of 500 and above: the same request may succeed later


class Wire:
    """Posts to one address; what it learns there (a pause, an answer) holds for all its threads."""

    def __init__(self, api: RerankApi, key: str | None) -> None:
        self._api, self._key = api, key
        self._client = _client(api.url, key)
        self._lock = threading.Lock()
        self._not_before = 0.0
        self._reached = False
        self._told: set[str] = set()
        host = urlsplit(api.url).hostname or ""
        if key is not None and api.url.startswith("http://") and not is_loopback(host):
            logger.warning(
                "the key in %s goes to %s unencrypted: the address is http", api.key_env, host
            )

    def post(self, body: dict[str, Any], stop: threading.Event) -> Any:
        """The answer's JSON; tried again with the server's own pauses while it is too busy.

        Raises RuntimeFailure if it stays so, and at once what another try would not mend.
        """
        import httpx

        # ASCII throughout: the body's bytes are the same whatever the texts hold.
        content = json.dumps(body).encode()
        for attempt in range(_TRIES):
            self._wait(stop)
            pause = min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE)
            pause *= 0.75 + random.random() / 2  # noqa: S311 - not a secret
            try:
                answer = self._client.post(
                    self._api.url, content=content, headers={"Content-Type": "application/json"}
                )
            except httpx.TransportError as error:
                if not self._reached or "CERTIFICATE" in str(error).upper():
                    raise self._unreachable(error) from None
                reason = f"{type(error).__name__}: {self._clean(str(error))}"
            else:
                self._reached = True
                if answer.is_success:
                    return self._json(answer)
                if answer.status_code not in _LATER and answer.status_code < 500:
                    raise self._refused(answer)
                reason = f"{answer.status_code} {self._message(answer)}".strip()
                pause = asked_pause(answer.headers.get("Retry-After"), pause)
            if attempt == _TRIES - 1 or stop.is_set():
                break
            self._say_once(reason, pause)
            with self._lock:
                self._not_before = max(self._not_before, time.monotonic() + pause)
        raise RuntimeFailure(
            f"the server at {self._api.url} did not answer {attempt + 1} times ({reason}): what "
            "was answered before is kept; start the same command again to go on, with a smaller "
            "rerank.api.concurrency if it is too busy"
        )

    def check_model(self) -> None:
        """Raise ConfigError if a TEI server says that it has another model than the config."""
        import httpx

        if self._api.dialect != "tei":
            return
        parts = urlsplit(self._api.url)
        info = urlunsplit(parts._replace(path=parts.path.rstrip("/").rpartition("/")[0] + "/info"))
        try:
            answer = self._client.get(info)
            served = answer.json()["model_id"] if answer.is_success else None
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return  # not every server in front of TEI hands this on; the first request tells more
        if served is not None and _last(str(served)) != _last(self._api.model):
            raise ConfigError(
                f"the server at {self._api.url} has the model {self._clean(str(served))!r}, "
                f"rerank.api.model says {self._api.model!r}: name the model that it has"
            )

    def _wait(self, stop: threading.Event) -> None:
        while (left := self._not_before - time.monotonic()) > 0 and not stop.wait(left):
            pass

    def _say_once(self, reason: str, pause: float) -> None:
        kind = reason[:3]
        level = logging.WARNING if self._is_new(kind) else logging.INFO
        where = self._api.url
        logger.log(level, "%s answered %s; trying again in %.1f s", where, reason, pause)

    def _json(self, answer: httpx.Response) -> Any:
        try:
            said = answer.json()
        except ValueError:
            kind = self._clean(answer.headers.get("Content-Type", "no content type"))
            raise ConfigError(
                f"the server at {self._api.url} answered what is no JSON ({kind}): check "
                "rerank.api.url, which is the address that pairs are posted to, path included"
            ) from None
        named = said.get("model") if isinstance(said, dict) else None
        if isinstance(named, str) and _last(named) != _last(self._api.model):
            if self._is_new(named):
                name = self._clean(named)
                logger.warning(
                    "the server answers as %s, asked was %s: set rerank.api.version if that is "
                    "another model",
                    *(name, self._api.model),
                )
        return said

    def _is_new(self, what: str) -> bool:
        """Whether nothing of it was told yet; threads that ask at once get one yes."""
        with self._lock:
            new = what not in self._told
            self._told.add(what)
        return new

    def _refused(self, answer: httpx.Response) -> RescoreError:
        code, api = answer.status_code, self._api
        said = f"the server at {api.url} answered {code}: {self._message(answer)}"
        if code in (401, 403):
            what = (
                "it wants a key; name the environment variable that holds it as rerank.api.key_env"
                if self._key is None
                else f"it does not take the key in {api.key_env}"
            )
            return MissingPrerequisite(f"{said.rstrip('.')}. So {what}")
        hints = {
            404: f"check rerank.api.url, path included, and rerank.api.model ({api.model})",
            405: "check rerank.api.url: nothing can be posted there",
            413: "set a smaller rerank.api.batch",
            424: f"{api.model} is no reranker there; give the address of one",
        }
        hint = hints.get(
            code,
            f"check that it speaks the dialect {api.dialect}, knows the model {api.model} and "
            "takes so many pairs a request (rerank.api.batch)",
        )
        if answer.is_redirect:
            hint = "it leads elsewhere, where neither texts nor key are sent; give that address"
        return ConfigError(f"{said.rstrip('.')}; {hint}")

    def _unreachable(self, error: Exception) -> RescoreError:
        said = self._clean(str(error)) or type(error).__name__
        hint = "start it, or correct rerank.api.url"
        if not is_loopback(urlsplit(self._api.url).hostname or ""):
            hint = "check rerank.api.url, the network and its proxy (HTTPS_PROXY, NO_PROXY)"
        if "CERTIFICATE" in said.upper():
            if "certificate is not valid for" in said or "Hostname mismatch" in said:
                hint = "its certificate is another host's: set rerank.api.url to the name in it"
            elif "expired" in said:
                hint = "have its certificate renewed, and look at this machine's clock"
            else:
                hint = (
                    "its certificate is not trusted here; if it is your own server's, name its "
                    "CA's file (PEM) in SSL_CERT_FILE"
                )
        elif "SSL" in said.upper() or "TLS" in said.upper():
            hint = "the address says https, does the server speak it?"
        return MissingPrerequisite(
            f"the server at {self._api.url} cannot be reached ({said}): {hint}"
        )

    def _message(self, answer: httpx.Response) -> str:
        """What the server says of a fault."""
        try:
            said = answer.json()
        except ValueError:
            said = answer.reason_phrase
        for _ in range(3):
            if isinstance(said, dict):
                said = next((said[k] for k in ("message", "error", "detail") if k in said), "")
        return self._clean(said if isinstance(said, str) else json.dumps(said))

    def _clean(self, text: str) -> str:
        """One line without the key, which servers like to repeat."""
        if self._key is not None:
            text = text.replace(self._key, "***")
        return masked(" ".join(text.split()))[:300]


def asked_pause(retry_after: str | None, otherwise: float) -> float:
    """Seconds that a server asks for, as a number or a date, bounded; `otherwise` if it does not.

    A pause is never shorter than a moment: zero would be no pause at all.
    """
    if retry_after is None:
        return otherwise
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            until = parsedate_to_datetime(retry_after)
        except ValueError:
            return otherwise
        if until.tzinfo is None:
            until = until.replace(tzinfo=UTC)
        seconds = (until - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.01), _LONGEST_ASKED) if seconds == seconds else otherwise


def is_loopback(host: str) -> bool:
    """Whether the host is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _client(url: str, key: str | None) -> httpx.Client:
    """A client that asks this machine directly and others by the proxies of the environment."""
    import httpx

    host = urlsplit(url).hostname or ""
    shown = f"[{host}]" if ":" in host else host
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    file = os.environ.get("SSL_CERT_FILE")
    if file and not os.path.isfile(file):
        raise ConfigError(
            f"SSL_CERT_FILE names {file}, which is no file: correct it, or unset it to trust the "
            "public authorities"
        )
    try:
        return httpx.Client(
            headers=headers,
            timeout=httpx.Timeout(_SECONDS, connect=20.0),
            mounts={f"all://{shown}": None} if is_loopback(host) else None,
        )
    except Exception as error:  # a proxy's address may hold a password: only the kind is said
        raise ConfigError(
            f"no client for {host} can be made ({type(error).__name__}): look at HTTP_PROXY, "
            "HTTPS_PROXY, ALL_PROXY and SSL_CERT_FILE"
        ) from None


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()
