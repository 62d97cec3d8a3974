"""How much memory is left: what must be held whole is refused before the system ends the job."""

from __future__ import annotations

from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
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
