"""What can go wrong, as a tree whose leaves carry the exit code of the command line.

RescoreError
+-- GateFailed            1  a gate of the config failed
+-- ConfigError           2  bad arguments or config
+-- MissingPrerequisite   3  a model, an extra or a device is not there
+-- MissingResource       4  a table, run or file is missing, or belongs to somebody else
+-- InputError            5  the input failed validation
+-- RuntimeFailure        6  something broke while running
|   +-- StoreAway            the database does not answer
+-- ToBeContinued         8  execution.max_seconds or max_pairs ended the work at a commit

Exit code 0 is "done" and 7 "done, with rejected rows"; neither is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

EXIT_DONE = 0
EXIT_REJECTS = 7
EXIT_UNEXPECTED = 6


class RescoreError(Exception):
    """An error with a message for people: what was given, what was expected, what to do."""

    exit_code = EXIT_UNEXPECTED


class GateFailed(RescoreError):
    """`values` is what the command would have told, had the gates passed."""

    exit_code = 1

    def __init__(self, message: str, values: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.values = dict(values or {})


class ConfigError(RescoreError):
    """The arguments or the config are wrong; every fault is named at once."""

    exit_code = 2


class MissingPrerequisite(RescoreError):
    """A model, an extra or a device does not exist on this machine."""

    exit_code = 3


class MissingResource(RescoreError):
    """A table, a run or a file is missing, or belongs to somebody else."""

    exit_code = 4


class InputError(RescoreError):
    """The input failed validation."""

    exit_code = 5


class RuntimeFailure(RescoreError):
    """Something broke while running; the message says what to do."""

    exit_code = 6


class StoreAway(RuntimeFailure):
    """The database did not answer, also not when it was asked again: it may a little later."""


class ToBeContinued(RescoreError):
    """A limit of the config ended the work at a commit; `values` is what a command tells of it."""

    exit_code = 8

    def __init__(self, message: str, values: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.values = dict(values or {})


def nearest(name: str, known: Iterable[str]) -> str:
    """Return what to add to an error about an unknown name: the known one that is most like it."""
    near = get_close_matches(name, list(known), 1, 0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


SEVERITY = (6, 5, 4, 3, 2, 1, 8, 7, 0)  # if several apply, the first of these wins


def worst(*codes: int) -> int:
    """The exit code that stands for several."""
    return min(codes, key=SEVERITY.index, default=EXIT_DONE)
