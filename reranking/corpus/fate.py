"""What happened to somebody else's table while a run was reading it, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reranking.corpus.corpus import Corpus, content_digest
from reranking.errors import InputError, RescoreError
from reranking.retry import first_line
from reranking.store import Database


def fate(database: Database, corpus: Corpus, where: Mapping[str, Any], content: str) -> str | None:
    """Say what happened to the pinned version; None if it is read as it was when it was pinned.

    `content` is its digest then.
    """
    home = corpus.database(database)
    what = f"table {corpus.table!r} in {home.uri}"
    table = home.open(corpus.table)
    if table is None:
        return f"{what} was dropped or renamed while the run was reading it"
    versions = [int(v["version"]) for v in table.list_versions()]
    pinned, newest = corpus.version, max(versions)
    if pinned not in versions:
        if newest < pinned:
            return f"{what} was dropped and made again while the run was reading version {pinned}"
        return (
            f"{what} was compacted and cleaned up while the run was reading it: version {pinned} "
            f"is gone, the newest is {newest}"
        )
    try:
        now = content_digest(database, corpus, where)[0]
    except InputError:
        now = ""  # another table altogether
    except RescoreError:
        raise
    except Exception as error:  # whatever LanceDB says of a file that is gone
        return (
            f"files of version {pinned} of {what} were removed while the run was reading it "
            f"({first_line(error)})"
        )
    if now != content:
        return f"{what} was dropped and made again while the run was reading version {pinned}"
    return None
