"""A long run's memory is flat: what a chunk needed is given back when it is done."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from tests.support import tiny

CHUNKS = 280


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_the_memory_of_a_long_run_is_flat(tmp_path: Path, cross_encoder: Path) -> None:
    rng = np.random.default_rng(2)
    asked = [f"{i} {tiny.sentence(rng, 2, 6)}" for i in range(4 * CHUNKS)]
    tiny.write_jsonl(tmp_path / "documents.jsonl", tiny.documents(200))
    tiny.write_jsonl(tmp_path / "queries.jsonl", tiny.queries(asked))
    config = tiny.write_config(
        tmp_path, cross_encoder, search__chunk_queries=4, execution__commit_seconds=0.1
    )
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        resident = pool.apply(_walk, (config,))
    assert len(resident) == CHUNKS
    # Libraries warm up and caches fill first; a manifest kept per commit would be 60 MB here.
    early, late = median(resident[120:160]), median(resident[-40:])
    assert late - early < 20, f"{late - early:.0f} MB more: {resident}"


def _walk(config: Path) -> list[float]:
    """The process's resident memory after each chunk, in MB."""
    import os
    from functools import wraps

    import reranking.store
    from reranking import chunks
    from tests.support.walk import walk_file

    reranking.store.METADATA_CACHE = 8 << 20  # full after few chunks
    resident = []
    score = chunks.score_chunk

    @wraps(score)
    def measured(*args: object) -> object:
        report = score(*args)
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        resident.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
        return report

    chunks.score_chunk = measured
    walk_file(config)
    return resident
