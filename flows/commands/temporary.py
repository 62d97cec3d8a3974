"""A Prefect server for the length of one command: on loopback, behind a token of its own.

It is a process that Ctrl-C and signals to the command's group do not end, so that the command can
still record how its flow run ended. It ends with the command, however that ends: then the pipe
that is its input closes.
"""

from __future__ import annotations

import base64
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from reranking.errors import MissingPrerequisite

_SECONDS = 120.0  # to wait for the server's first answer
_HOST = "127.0.0.1"


@contextmanager
def temporary_server() -> Iterator[None]:
    """Serve Prefect's API, and name it in the environment, which Prefect reads when imported."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port = probe.getsockname()[1]
    token = f"rescore:{secrets.token_urlsafe(24)}"
    ours = {"PREFECT_API_URL": f"http://{_HOST}:{port}/api", "PREFECT_API_AUTH_STRING": token}
    theirs = {"PREFECT_SERVER_API_AUTH_STRING": token, "PREFECT_SERVER_UI_ENABLED": "false"}
    process = subprocess.Popen(  # noqa: S603 - this interpreter on this module
        [sys.executable, "-m", __name__, str(port)],
        stdin=subprocess.PIPE,
        env={**os.environ, **ours, **theirs},
    )
    before = {name: os.environ.get(name) for name in ours}
    try:
        _wait(process, ours["PREFECT_API_URL"], token)
        os.environ.update(ours)
        yield
    finally:
        _send_logs()
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        assert process.stdin is not None
        process.stdin.close()
        process.wait()


def _send_logs() -> None:
    """Have Prefect send the lines that it still holds while somebody listens: 5 s at most."""
    handlers = sys.modules.get("prefect.logging.handlers")
    if handlers is not None:
        handlers.APILogHandler().flush()


def _wait(process: subprocess.Popen[bytes], url: str, token: str) -> None:
    """Wait until the server answers."""
    key = base64.b64encode(token.encode()).decode()
    headers = {"Authorization": f"Basic {key}"}
    asked = urllib.request.Request(f"{url}/health", headers=headers)  # noqa: S310 - our own address
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + _SECONDS
    while process.poll() is None and time.monotonic() < until:
        try:
            with direct.open(asked, timeout=5):
                return
        except urllib.error.HTTPError:
            break
        except OSError:
            time.sleep(0.1)
    raise MissingPrerequisite(
        f"the temporary Prefect server at {url} "
        + (f"ended with {process.returncode}" if process.poll() is not None else "does not answer")
        + "; leave out --server to work in this process, or configure a server (PREFECT_API_URL)"
    )


def serve(port: int) -> None:
    """Serve until standard input ends; signals are left to the command."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    import uvicorn

    application = "prefect.server.api.server:create_app"
    config = uvicorn.Config(application, factory=True, host=_HOST, port=port, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    sys.stdin.buffer.read()
    server.should_exit = True
    thread.join(5)
    os._exit(0)  # Prefect's services wait for their next turn


if __name__ == "__main__":
    serve(int(sys.argv[1]))
