"""How long work tells what it has done: a stage, units done, units in all."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told after every piece of work; `total` is None while it is not known."""

    def __call__(self, stage: str, done: int, total: int | None) -> None: ...


def silent(stage: str, done: int, total: int | None) -> None:
    """The Progress that nobody watches."""
