"""The stored candidates of a run that goes on, asked for by several threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pyarrow as pa
import pytest

from reranking.runs import candidates
from reranking.runs.candidates import StoredCandidates
from reranking.runs.run import Run
from reranking.schemas import CANDIDATES


def test_threads_share_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one asks while the first is in the middle of the pass."""
    inside, both = threading.Event(), threading.Event()
    empty = CANDIDATES.empty_table()

    def passing(run: Any, marks: dict[int, Any]) -> Iterator[tuple[int, pa.Table]]:
        for chunk in marks:
            inside.set()
            both.wait(0.2)
            yield chunk, empty

    def second() -> pa.Table | None:
        inside.wait()
        return stored.of(1)

    monkeypatch.setattr(candidates, "_in_order", passing)
    stored = StoredCandidates(cast("Run", SimpleNamespace(marks={1: {}, 0: {}, 2: {}})))
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(stored.of, 0), pool.submit(second)]
        assert [a.result() is empty for a in answers] == [True, True]
    assert stored.of(0) is None  # the pass is beyond it
    assert stored.of(2) is empty
