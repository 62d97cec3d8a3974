"""Whether anybody listens at a cluster's address, told in seconds: engines ask for minutes."""

from __future__ import annotations

import re
import socket

from reranking.errors import MissingPrerequisite

_TIMEOUT = 5.0
_PLACE = re.compile(r"(?:(?:tcp|ray|tls|ucx)://)?\[?(?P<host>[^/]+?)\]?:(?P<port>\d+)/?$")


def need_answer(address: str, engine: str, start: str) -> None:
    """Raise MissingPrerequisite if nobody listens at HOST:PORT; other addresses are let pass."""
    match = _PLACE.match(address)
    if match is None:
        return
    try:
        socket.create_connection((match["host"], int(match["port"])), timeout=_TIMEOUT).close()
    except OSError as error:
        raise MissingPrerequisite(
            f"nobody listens at execution.address {address} ({error.strerror or error}): start the "
            f"{engine} cluster with `{start}`, or leave the address out to start one here"
        ) from error
