"""What is said while a command works: on stderr and, if asked, in a file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reranking.errors import ConfigError
from reranking.progress import NOTICE

_OURS = ("reranking", "configs", "tasks", "flows")
_PROGRESS = "reranking.progress"


class _Printable(logging.Formatter):
    """Formats as logging does, without what would steer a terminal or tell a secret."""

    def format(self, record: logging.LogRecord) -> str:
        from configs.source import masked
        from flows.commands.console import printable

        return printable(masked(super().format(record)))


@contextmanager
def logged(*, verbose: bool, quiet: bool, file: Path | None) -> Iterator[None]:
    """Say what goes on for the length of a command.

    On a terminal bars show progress, and warnings are printed; elsewhere there is a line a stage
    and one every half minute. `verbose` prints all there is, `quiet` warnings only and no progress.
    The file gets the lines in any case, each with its time, behind what it holds already.
    """
    if verbose and quiet:
        raise ConfigError("give either --verbose or --quiet")
    shown = logging.StreamHandler(sys.stderr)
    shown.setFormatter(_Printable("%(message)s"))
    spoken = logging.INFO if verbose or not sys.stderr.isatty() else NOTICE
    shown.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else spoken)
    handlers: list[logging.Handler] = [shown]
    if file is not None:
        handlers.append(_file_handler(file, logging.DEBUG if verbose else logging.INFO))
    loggers = [logging.getLogger(name) for name in _OURS]
    progress = logging.getLogger(_PROGRESS)
    before = [(logger, logger.level, logger.propagate) for logger in (*loggers, progress)]
    for logger in loggers:
        logger.handlers += handlers
        logger.setLevel(min(handler.level for handler in handlers))
        logger.propagate = False  # Prefect prints what reaches the root a second time
    if quiet and file is None:
        progress.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level, propagate in before:
            logger.setLevel(level)
            logger.propagate = propagate
            logger.handlers = [h for h in logger.handlers if h not in handlers]
        for handler in handlers[1:]:
            handler.close()


def _file_handler(file: Path, level: int) -> logging.Handler:
    try:
        handler = logging.FileHandler(file, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--log-file {file}: {error.strerror or error}") from error
    handler.setFormatter(_Printable("%(asctime)s %(levelname)s %(message)s"))
    handler.setLevel(level)
    return handler
