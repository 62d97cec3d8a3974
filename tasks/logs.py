"""The lines of our own log in the Logs tab of a flow run."""

from __future__ import annotations

import logging

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler

from configs.source import masked

_OURS = ("reranking", "configs")


class _Masked(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))


class _FlowRunLog(APILogHandler):
    """Sends lines to the server while a flow run is at work; threads outside of one send none."""

    def emit(self, record: logging.LogRecord) -> None:
        if FlowRunContext.get() is not None or TaskRunContext.get() is not None:
            super().emit(record)


def show_lines() -> None:
    """Have our own lines shown beside Prefect's, once a process."""
    for name in _OURS:
        logger = logging.getLogger(name)
        if not any(isinstance(handler, _FlowRunLog) for handler in logger.handlers):
            handler = _FlowRunLog()
            handler.setFormatter(_Masked("%(message)s"))
            logger.addHandler(handler)
        if logger.getEffectiveLevel() > logging.INFO:
            logger.setLevel(logging.INFO)
