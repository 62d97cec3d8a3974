"""An S3 emulator on loopback, with a bucket, for as long as a test needs it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.request import Request, urlopen

BUCKET = "shelf"


@dataclass(frozen=True)
class Store:
    """Where the emulator listens, and the environment that points LanceDB there."""

    endpoint: str
    server: Any = None

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "planted-key-id",
            "AWS_SECRET_ACCESS_KEY": "planted-secret",
        }

    def client(self) -> Any:
        """A client that is not LanceDB's."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="other",
            aws_secret_access_key="other",
        )

    def objects(self, prefix: str) -> dict[str, bytes]:
        """The objects below a prefix, a thousand of them at most."""
        client = self.client()
        found = client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        keys = [row["Key"] for row in found]
        return {k: client.get_object(Bucket=BUCKET, Key=k)["Body"].read() for k in keys}

    def leave(self) -> None:
        """Refuse connections until `come_back`, which takes a port that was given."""
        self.server.stop()
        self.server._server.server_close()

    def come_back(self) -> None:
        """Answer again, with what was stored."""
        self.server.start()

    def put(self, key: str, content: bytes) -> None:
        """Store an object."""
        self.client().put_object(Bucket=BUCKET, Key=key, Body=content)


@contextmanager
def emulator(port: int = 0) -> Iterator[Store]:
    """moto's server on a (free) port of loopback, with an empty bucket; stopped at the end."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # a line per request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        store = Store(f"http://{host}:{port}", server)
        # What an earlier emulator of this process held is still there.
        urlopen(Request(f"{store.endpoint}/moto-api/reset", method="POST")).close()  # noqa: S310
        store.client().create_bucket(Bucket=BUCKET)
        yield store
    finally:
        server.stop()
