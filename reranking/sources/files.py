"""Local files as bytes: clear errors for what cannot be opened, gzip, byte-order marks, lines."""

from __future__ import annotations

import errno
import gzip
import io
import os
import stat
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from reranking.errors import InputError, MissingResource, RuntimeFailure

MAX_LINE = 128 * 1024 * 1024
"""Bytes; a longer line is no row of a data set but a file of another format."""

_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"


def regular_file(path: str | Path) -> Path:
    """`path`, which is a file; else an error that says what it is instead."""
    found = _mode(path)
    if stat.S_ISDIR(found):
        raise InputError(f"{path} is a folder, expected a file: name the file in it")
    if not stat.S_ISREG(found):
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


def open_bytes(path: Path) -> BinaryIO:
    """A reader at the first byte after any byte-order mark, of what gzip packed if it did."""
    try:
        plain = path.open("rb")
    except OSError as error:
        raise MissingResource(f"{path} cannot be opened: {error.strerror}") from error
    packed = path.suffix == ".gz" or plain.peek(2)[:2] == _GZIP
    if not packed:
        return _without_mark(plain)
    # GzipFile reads line by line slowly: a larger buffer around it makes that fast
    plain.close()
    unpacked = io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(path)), 1 << 18)
    try:
        return _without_mark(unpacked)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        unpacked.close()
        raise _broken(path, 0, error) from error


def _without_mark(handle: io.BufferedReader[Any]) -> BinaryIO:
    if handle.peek(len(_BOM))[: len(_BOM)] == _BOM:
        handle.read(len(_BOM))
    return cast(BinaryIO, handle)


def _broken(path: Path, lines: int, error: Exception) -> InputError:
    return InputError(
        f"{path}: broken gzip after {lines} lines were read: {error}; fetch or pack the file again"
    )


def raw_lines(path: Path) -> Iterator[bytes | None]:
    """Each line with its line end, in order; None stands for one longer than MAX_LINE."""
    count = 0
    with open_bytes(path) as handle:
        try:
            for line in iter(partial(handle.readline, MAX_LINE), b""):
                count += 1
                if len(line) == MAX_LINE and not line.endswith(b"\n"):
                    _skip_line(handle)
                    yield None
                else:
                    yield line
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise _broken(path, count, error) from error
        except OSError as error:
            raise RuntimeFailure(f"{path}: reading failed after {count} lines: {error}") from error


def _skip_line(handle: BinaryIO) -> None:
    while (rest := handle.readline(1 << 20)) and not rest.endswith(b"\n"):
        pass


def lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """The lines that are not blank, each with its number in the file, counted from 1."""
    for number, line in enumerate(raw_lines(path), start=1):
        if line is None or not line.isspace():
            yield number, line
