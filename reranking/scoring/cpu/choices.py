"""How fast each way of computing something is on this machine: measured once, then remembered.

What is timed decides which kernels score. Two processes of one run must decide alike, however busy
the machine is while each of them starts: the first measurement is stored, later ones read it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from reranking.scoring.machine import Record, processor

_unstored: dict[Path, list[float]] = {}  # where the cache folder cannot be written


def remembered_seconds(
    question: str, names: Sequence[str], measure: Callable[[], Sequence[float]]
) -> list[float]:
    """Seconds that each of the ways in `names` takes for `question`, as first measured here.

    They are kept in the cache folder, one record for each processor, torch version and question;
    if that folder cannot be written, in this process. A record that is damaged is measured again.
    """
    key = {
        "processor": processor(),
        "torch": torch.__version__,
        "question": question,
        "ways": list(names),
    }
    record = Record("timings", key)
    if known := _unstored.get(record.path):
        return known
    stored = record.read()
    if stored is None:
        seconds = [float(s) for s in measure()]
        stored = record.store(dict(zip(names, seconds, strict=True)))
        if stored is None:
            return _unstored.setdefault(record.path, seconds)
    return [stored[name] for name in names]
