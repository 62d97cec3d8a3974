"""Tables that grow by many small commits are compacted now and then: commits list all files."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

from reranking.retry import first_line

log = logging.getLogger(__name__)

KEEP_ALL = timedelta(days=36_500)  # optimize() fails on tagged versions it may not prune
SMALL_FILES = 100  # after so many appends of one process it looks whether there are as many


def compact_small_files(table: Any, name: str) -> None:
    """Compact the table if it has become many small files; no version is pruned.

    Another process may be doing the same: nothing is lost if it cannot be done.
    """
    if table.stats()["fragment_stats"]["num_small_fragments"] < SMALL_FILES:
        return
    try:
        table.optimize(cleanup_older_than=KEEP_ALL)
    except Exception as error:
        log.info("table %s was not compacted: %s", name, first_line(error))
