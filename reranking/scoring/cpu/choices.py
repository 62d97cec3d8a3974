"""How fast each way of computing something is on this machine: measured once, then remembered.

What is timed decides which kernels score. Two processes of one run must decide alike, however busy
the machine is while each of them starts: the first measurement is stored, later ones read it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import blake2b
from pathlib import Path

import torch

from reranking.errors import MissingPrerequisite
from reranking.models.builtin import default_cache

logger = logging.getLogger(__name__)

_CPU_FACTS = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags", "Features")
_unstored: dict[Path, list[float]] = {}  # where the cache folder cannot be written


def remembered_seconds(
    question: str, names: Sequence[str], measure: Callable[[], Sequence[float]]
) -> list[float]:
    """Seconds that each of the ways in `names` takes for `question`, as first measured here.

    They are kept in the cache folder, in one file for each processor, torch version and question;
    if that folder cannot be written, in this process. A file that is damaged is measured again.
    """
    key = {"processor": processor(), "torch": torch.__version__, "question": question}
    digest = blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=12).hexdigest()
    path = _folder() / f"{digest}.json"
    if known := _unstored.get(path) or _read(path, names):
        return known
    seconds = [float(s) for s in measure()]
    stored = _store(path, names, key | {"seconds": dict(zip(names, seconds, strict=True))})
    return stored or _unstored.setdefault(path, seconds)


def _folder() -> Path:
    """The folder of stored timings; one that cannot exist if this user has no cache folder."""
    try:
        return default_cache() / "timings"
    except MissingPrerequisite:
        return Path(os.devnull) / "timings"


@cache
def processor() -> str:
    """What decides which kernels this machine can run: the processor's model and instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    facts = [line.partition(":") for line in lines]
    known = [value.strip() for name, _, value in facts if name.strip() in _CPU_FACTS]
    return " ".join([*(known or [platform.processor()]), platform.machine()])


def _read(path: Path, names: Sequence[str]) -> list[float] | None:
    """The stored seconds; None if there are none, or if the file is damaged."""
    try:
        stored = json.loads(path.read_text("utf-8"))["seconds"]
        seconds = [float(stored[name]) for name in names]
        if not all(math.isfinite(s) and s > 0 for s in seconds):
            raise ValueError(f"{seconds} are no times")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        logger.warning("%s is damaged, it is measured again: %s", path, error)
        return None
    return seconds


def _store(path: Path, names: Sequence[str], record: dict[str, object]) -> list[float] | None:
    """Store the record unless another process was first; what is stored then, None if nothing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(prefix=".", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(record, file, indent=1)
            _place(Path(scratch), path, names)
        finally:
            Path(scratch).unlink(missing_ok=True)
    except OSError as error:
        logger.info("timings are kept in this process only: %s", error)
        return None
    return _read(path, names)


def _place(scratch: Path, path: Path, names: Sequence[str]) -> None:
    """Move the file to its place unless a readable one exists."""
    try:
        os.link(scratch, path)  # unlike a rename, it does not replace what came first
    except FileExistsError:
        if _read(path, names) is None:
            os.replace(scratch, path)
    except OSError:  # a file system without hard links
        os.replace(scratch, path)
