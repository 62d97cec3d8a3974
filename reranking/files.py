"""Files that appear whole or not at all: written beside their place, then moved there."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from reranking.errors import ConfigError, MissingPrerequisite


def check_out(path: Path) -> Path:
    """Return where a file of this name is written: behind a link, the file that the link names.

    Raises ConfigError if no file can be written there: call it before the work. A FIFO or a device
    is refused, for a whole file would take its place; so is `-`, which means no file elsewhere.
    """
    if str(path) == "-":
        raise ConfigError("'-' is no file here, results are written whole or not at all: name one")
    try:
        target = path.resolve()
        # /dev/stdout may lead to a nameless pipe, and a link to itself, which 3.13 resolves
        known = path.stat() if path.exists() or target.is_symlink() else None
        _ = target.parent.stat() if target.parent.is_dir() else None
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL, a long name
        reason = getattr(error, "strerror", None) or "no possible name of a file"
        raise ConfigError(f"{_named(path)} cannot be written: {reason}") from None
    if known is not None and stat.S_ISDIR(known.st_mode):
        raise ConfigError(f"{_named(path)} is a folder: name a file in it")
    if known is not None and not stat.S_ISREG(known.st_mode):
        raise ConfigError(
            f"{_named(path)} is a pipe or a device, and results are written whole or not at all: "
            "name a file"
        )
    if not target.parent.is_dir():
        raise ConfigError(f"folder {_named(target.parent)} does not exist")
    longest = os.pathconf(target.parent, "PC_NAME_MAX")
    if len(os.fsencode(target.name)) > longest:
        raise ConfigError(f"{_named(path)} cannot be written: a name has at most {longest} bytes")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"folder {_named(target.parent)} cannot be written: check permissions")
    return target


def nearest_folder(path: Path) -> Path:
    """Return the folder itself, or the nearest one above it that exists."""
    return next(p for p in [path, *path.absolute().parents] if p.is_dir())


def need_links(folder: Path) -> None:
    """Raise MissingPrerequisite if files there cannot have two names: LanceDB commits with that.

    Shares of Windows, memory cards and many cloud drives have none. A folder that is not there yet
    is judged by the nearest one that is; one that cannot be written is left for others to tell.
    """
    place = nearest_folder(folder)
    first = place / f".rescore-{secrets.token_hex(8)}"
    second = first.with_suffix(".link")
    try:
        first.touch(exist_ok=False)
    except OSError:
        return
    try:
        os.link(first, second)
        second.unlink()
    except OSError as error:
        raise MissingPrerequisite(
            f"{place} is on a file system without hard links ({error.strerror}), and LanceDB "
            "commits with them: name a folder of a local disk or of NFS, or an object store, in "
            "`database`"
        ) from None
    finally:
        first.unlink()


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file that takes the place of `path` if the block ends well, else is removed.

    A file that is replaced hands on its mode. Raises ConfigError as `check_out` does.
    """
    target = check_out(path)
    beside = _beside(target)
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    handle = os.open(beside, flags, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            if target.exists():
                os.fchmod(handle, stat.S_IMODE(target.stat().st_mode))
            yield file
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)


def write_text(path: Path, lines: Iterable[str]) -> Path:
    """Write lines, which bring their own line ends, as a whole UTF-8 file."""
    with whole_file(path) as file:
        for line in lines:
            file.write(line.encode("utf-8"))
    return path


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Yield a new folder that takes the place of `folder` if the block ends well, else is removed.

    What stood there goes last. Missing parents are made, and removed again if the block fails.
    Raises ConfigError if a file, or a link to somewhere else, has that name.
    """
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise ConfigError(f"{_named(folder)} is no folder: name a new one")
    made = [p for p in (folder.parent, *folder.parent.parents) if not p.exists()]
    beside, old = _beside(folder), _beside(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir()
    except OSError as error:
        raise ConfigError(f"{_named(folder)} cannot be written: {error.strerror}") from None
    moved = False
    try:
        yield beside
        if folder.exists():
            folder.rename(old)
        try:
            beside.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
        moved = True
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
        for parent in made if not moved else []:
            _remove_empty(parent)


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:  # somebody else uses it by now
        return


def _beside(path: Path) -> Path:
    """A name in the same folder that nobody can know before."""
    return path.with_name(f".{secrets.token_hex(12)}.partial")


def _named(path: Path) -> str:
    text = str(path)
    return repr(text if len(text) <= 200 else f"{text[:200]}...")
