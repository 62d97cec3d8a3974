"""Content digests of model files, remembered while the file stays as it is."""

from __future__ import annotations

from hashlib import blake2b, sha256
from pathlib import Path

_CHUNK = 1 << 20
_memo: dict[tuple[str, str, int, int, int], str] = {}


def file_digest(path: Path, algorithm: str = "blake2b") -> str:
    """Hex digest of a file's bytes (blake2b with 16 bytes, or sha256).

    A file is read again only if its size, modification time or inode changed.
    """
    stat = path.stat()
    key = (algorithm, str(path.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ino)
    if key not in _memo:
        _memo[key] = _read_digest(path, algorithm)
    return _memo[key]


def _read_digest(path: Path, algorithm: str) -> str:
    hasher = sha256() if algorithm == "sha256" else blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
    return hasher.hexdigest()
