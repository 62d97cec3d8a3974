"""How much memory is left: what must be held whole is refused before the system ends the job."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_M_ARENA_MAX = -8  # of malloc.h
_GROUP = Path("/sys/fs/cgroup")  # a container's own limit


def available() -> int | None:
    """Bytes that this process may still take, None where the system does not say."""
    known = [n for n in (_of_machine(), _of_group()) if n is not None]
    return min(known, default=None)


def _of_machine() -> int | None:
    try:
        lines = _MEMINFO.read_text().splitlines()
    except OSError:
        return None
    told = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(told[0]) * 1024 if told else None


def _of_group() -> int | None:
    try:
        most = (_GROUP / "memory.max").read_text().strip()
        taken = int((_GROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    return max(int(most) - taken, 0) if most.isdigit() else None


def keep_together() -> None:
    """Let threads share what each of them frees: glibc has eight heaps a core otherwise.

    Libraries start many threads, and what is free in the heap of one is of no use to another.
    """
    if "MALLOC_ARENA_MAX" not in os.environ:
        with suppress(OSError, AttributeError):  # another system, another C library
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, max(1, (os.cpu_count() or 1) // 2))


def give_back() -> None:
    """Return to the system what is free: glibc keeps it for each of the threads that freed it."""
    with suppress(OSError, AttributeError):  # another system, another C library
        ctypes.CDLL(None).malloc_trim(0)
