"""Files as bytes: where they are, what packed them, byte-order marks, lines.

A path is a local file or folder, a URI of pyarrow's file systems (`s3://`, `gs://`, ...), or `-`
for the standard input.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import re
import shutil
import stat
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import IO, Any, BinaryIO, cast
from urllib.parse import unquote

import pyarrow as pa

from reranking.errors import InputError, MissingResource, RuntimeFailure

MAX_LINE = 128 * 1024 * 1024
"""Bytes; a longer line is no row of a data set but a file of another format."""

STDIN = "-"
_BOM = b"\xef\xbb\xbf"
CODECS: dict[str, tuple[str, re.Pattern[bytes]]] = {
    ".gz": ("gzip", re.compile(rb"\x1f\x8b")),
    ".zst": ("zstd", re.compile(rb"\x28\xb5\x2f\xfd")),
    ".bz2": ("bzip2", re.compile(rb"BZh[1-9]1AY&SY")),
    ".xz": ("xz", re.compile(rb"\xfd7zXZ\x00")),
}
_BROKEN = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, pa.ArrowInvalid)
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Shard:
    """One file of a source, with the values that the names of its folders give its rows."""

    path: str
    values: dict[str, object] = field(default_factory=dict)
    remote: Any = None  # pyarrow's file system and the path in it, for a URI
    data: bytes | None = None  # the contents themselves

    def __str__(self) -> str:
        return self.path


def shards(path: str, *endings: str) -> list[Shard]:
    """The file at `path`, or the files under a folder that end so, packed or not, by name.

    Folders called `key=value` give their rows that column, as Hive and Spark write them. Names
    that begin with `.` or `_` are left out. Without endings `path` must be a file.
    """
    if path == STDIN:
        return [Shard(path)]
    if "://" in path:
        return _remote_shards(path, endings)
    if not endings or not is_folder(path):
        return [Shard(str(regular_file(path)))]
    names = [
        os.path.relpath(os.path.join(root, name), path)
        for root, _, files in os.walk(path)
        for name in files
    ]
    return [
        Shard(os.path.join(path, name), partition_values(name))
        for name in _matching(path, names, endings)
    ]


def _matching(path: str, names: list[str], endings: Sequence[str]) -> list[str]:
    packed = (*endings, *(end + codec for end in endings for codec in CODECS))
    kept = sorted(
        (
            name
            for name in names
            if name.lower().endswith(packed)
            and not any(part.startswith((".", "_")) for part in re.split(r"[/\\]", name))
        ),
        key=lambda name: Path(name).parts,
    )
    if not kept:
        wanted = " or ".join(endings)
        raise InputError(f"{path} is a folder without a {wanted} file: {sorted(names)[:10]}")
    return kept


def partition_values(name: str) -> dict[str, object]:
    """The columns that the folders of a relative path name: `lang=en/part-0.csv` has lang."""
    values: dict[str, object] = {}
    for part in re.split(r"[/\\]", name)[:-1]:
        key, equal, value = part.partition("=")
        if key and equal:
            values[unquote(key)] = None if value == _HIVE_NULL else unquote(value)
    return values


def _remote_shards(path: str, endings: Sequence[str]) -> list[Shard]:
    from pyarrow import fs

    try:
        system, root = fs.FileSystem.from_uri(path)
        about = system.get_file_info(root)
        if about.type == fs.FileType.File:
            return [Shard(path, {}, (system, root))]
        if about.type == fs.FileType.NotFound:
            raise MissingResource(f"{path} does not exist")
        if not endings:
            raise InputError(f"{path} is a folder, expected a file: name the file in it")
        listed = system.get_file_info(fs.FileSelector(root, recursive=True))
    except (OSError, ValueError, NotImplementedError) as error:
        raise MissingResource(f"{path} cannot be opened: {error}") from error
    start = len(root.rstrip("/")) + 1
    names = [one.path[start:] for one in listed if one.type == fs.FileType.File]
    return [
        Shard(f"{path.rstrip('/')}/{name}", partition_values(name), (system, f"{root}/{name}"))
        for name in _matching(path, names, endings)
    ]


def regular_file(path: str | Path) -> Path:
    """`path`, which is a file; else an error that says what it is instead."""
    mode = _mode(path)
    if stat.S_ISDIR(mode):
        raise InputError(f"{path} is a folder, expected a file: name the file in it")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is not a regular file")
    return Path(path)


def folder(path: str | Path) -> Path:
    """`path`, which is a folder; else an error that says what it is instead."""
    if not stat.S_ISDIR(_mode(path)):
        raise InputError(f"{path} is a file, expected a folder")
    return Path(path)


def is_folder(path: str | Path) -> bool:
    """Whether `path` is a folder; an error if there is nothing."""
    return stat.S_ISDIR(_mode(path))


def names_in(path: Path) -> list[str]:
    """The sorted names in a folder, for messages; none if it cannot be listed."""
    try:
        return sorted(os.listdir(path))
    except (OSError, ValueError):
        return []


def _mode(path: str | Path) -> int:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError as error:
        raise MissingResource(f"{path} does not exist") from error
    except OSError as error:
        loops = error.errno == errno.ELOOP
        reason = "its symbolic links form a loop" if loops else error.strerror
        raise MissingResource(f"{path} cannot be opened: {reason}") from error
    except ValueError as error:  # a NUL in the path
        raise MissingResource(f"{path!r} is not a path: {error}") from error


def open_plain(shard: Shard) -> Any:  # noqa: ANN401 - a file of Python's or of pyarrow's
    """The shard's bytes as they are stored; local and remote files can seek."""
    if shard.data is not None:
        return io.BytesIO(shard.data)
    if shard.path == STDIN:
        return _from_start(_spooled())
    try:
        if shard.remote is None:
            return Path(shard.path).open("rb")
        system, path = shard.remote
        return system.open_input_file(path)
    except OSError as error:
        raise MissingResource(f"{shard} cannot be opened: {error.strerror or error}") from error


def _from_start(handle: int) -> BinaryIO:
    os.lseek(handle, 0, os.SEEK_SET)
    return os.fdopen(os.dup(handle), "rb")


@cache
def _spooled() -> int:
    """A file of its own with all of stdin, at its start: a source may be read more than once."""
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
    with os.fdopen(os.dup(sys.stdin.fileno()), "rb") as given:
        shutil.copyfileobj(given, copy)
    copy.flush()
    _kept.append(copy)
    return copy.fileno()


_kept: list[IO[bytes]] = []


@contextmanager
def open_bytes(shard: Shard) -> Iterator[tuple[BinaryIO, str | None]]:
    """A reader at the first byte after any byte-order mark, and the name of what packed it.

    gzip, zstd, bzip2 and xz are known by the file's ending, else by its first bytes.
    """
    with ExitStack() as stack:
        opened = stack.enter_context(open_plain(shard))
        plain = opened if hasattr(opened, "peek") else io.BufferedReader(opened, 1 << 18)
        codec = _codec(shard.path, plain.peek(10)[:10])
        if codec is not None:
            # these read line by line slowly: a larger buffer around them makes that fast
            unpacked = stack.enter_context(_unpacked(plain, codec))
            plain = stack.enter_context(io.BufferedReader(unpacked, 1 << 18))
        try:
            handle = _without_mark(plain)
        except (*_BROKEN, OSError) as error:
            raise _broken(shard, codec or "file", 0, error) from error
        yield handle, codec


def _codec(path: str, start: bytes) -> str | None:
    if not start:
        return None
    for ending, (name, magic) in CODECS.items():
        if path.endswith(ending) or magic.match(start):
            return name
    return None


def _unpacked(plain: Any, codec: str) -> Any:  # noqa: ANN401 - readers without a common type
    if codec == "zstd":
        return pa.CompressedInputStream(pa.PythonFile(plain, mode="r"), "zstd")
    if codec == "gzip":
        return gzip.GzipFile(fileobj=plain)
    return bz2.BZ2File(plain) if codec == "bzip2" else lzma.LZMAFile(plain)


def _without_mark(handle: io.BufferedReader[Any]) -> BinaryIO:
    if handle.peek(len(_BOM))[: len(_BOM)] == _BOM:
        handle.read(len(_BOM))
    return cast(BinaryIO, handle)


def _broken(shard: Shard, codec: str, lines: int, error: Exception) -> InputError:
    return InputError(
        f"{shard}: broken {codec} after {lines} lines were read: {error}; fetch or pack the file "
        "again"
    )


def raw_lines(shard: Shard) -> Iterator[bytes | None]:
    """Each line with its line end, in order; None stands for one longer than MAX_LINE.

    Lines end with LF or CR LF and with nothing else: U+2028 and its like are text.
    """
    count = 0
    with open_bytes(shard) as (handle, codec):
        try:
            for line in iter(partial(handle.readline, MAX_LINE), b""):
                count += 1
                if len(line) == MAX_LINE and not line.endswith(b"\n"):
                    _skip_line(handle)
                    yield None
                else:
                    yield line
        except _BROKEN as error:
            raise _broken(shard, codec or "file", count, error) from error
        except OSError as error:
            if codec and error.errno is None:  # what a codec says of its data
                raise _broken(shard, codec, count, error) from error
            raise RuntimeFailure(f"{shard}: reading failed after {count} lines: {error}") from error


def _skip_line(handle: BinaryIO) -> None:
    while (rest := handle.readline(1 << 20)) and not rest.endswith(b"\n"):
        pass


def lines(shard: Shard) -> Iterator[tuple[int, bytes | None]]:
    """The lines that are not blank, each with its number in the file, counted from 1."""
    for number, line in enumerate(raw_lines(shard), start=1):
        if line is None or not line.isspace():
            yield number, line
