"""Content digests of model files, and the one way in which a model's file is opened."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b, sha256
from pathlib import Path
from typing import BinaryIO

from reranking.errors import ConfigError, MissingPrerequisite

_CHUNK = 1 << 20
_SETTLED = 2.0  # seconds; a file changed later than that may change again within one clock tick

Stamp = tuple[int, int, int, int, int]
_memo: dict[tuple[str, str, Stamp], str] = {}


@contextmanager
def regular_file(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading; never waits, as a pipe without a writer would make it.

    Raises ConfigError for a pipe, a device, a socket or a folder, MissingPrerequisite for a file
    that cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise MissingPrerequisite(f"{path} cannot be read ({error.strerror})") from error
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ConfigError(f"{path} is not a regular file; restore the model folder")
        yield file


def stamp(file: BinaryIO) -> Stamp:
    """What changes when an open file is written or replaced, whatever times its writer sets."""
    s = os.fstat(file.fileno())
    return s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns


def file_digest(path: Path, algorithm: str = "blake2b") -> str:
    """Hex digest of a file's bytes (blake2b with 16 bytes, or sha256).

    A file is read again unless its inode, size and both times are as they were. The time of the
    last change of the inode is the one that a writer cannot set back.
    """
    with regular_file(path) as file:
        before = stamp(file)
        key = (algorithm, str(path), before)
        if key not in _memo:
            digest = _read_digest(file, algorithm)
            if stamp(file) != before or time.time() - before[4] / 1e9 < _SETTLED:
                return digest
            _memo[key] = digest
        return _memo[key]


def fresh_digest(path: Path) -> str:
    """Hex digest (blake2b) of a file's bytes, read now."""
    with regular_file(path) as file:
        return _read_digest(file, "blake2b")


def bytes_digest(data: bytes) -> str:
    """Hex digest of bytes, equal to `file_digest` of a file that holds them."""
    return blake2b(data, digest_size=16).hexdigest()


def _read_digest(file: BinaryIO, algorithm: str) -> str:
    hasher = sha256() if algorithm == "sha256" else blake2b(digest_size=16)
    while chunk := file.read(_CHUNK):
        hasher.update(chunk)
    return hasher.hexdigest()
