"""What a chunk costs at an object store does not grow with the chunks before it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.mark.slow
def test_requests_grow_with_the_chunks_and_not_with_their_square(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("moto")
    from benchmarks import unit_costs

    monkeypatch.setattr(unit_costs, "CHUNKS", (1, 5, 20))
    before = dict(os.environ)
    try:
        counted = unit_costs.requests(tmp_path)  # names its store in the environment
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
    early, late = (
        sum(counted[f"requests per chunk, from {less} to {more}"].values())
        for less, more in ((1, 5), (5, 20))
    )
    assert late <= 1.2 * early
