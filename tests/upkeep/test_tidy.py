"""The tidied pair-score store: one row per pair, no difference to readers, nothing lost."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from reranking.runs.pairs import TABLE, PairScores
from reranking.schemas import PAIR_SCORES
from reranking.store import Database, one_of
from reranking.upkeep.tidy import Wanted, tidy_scores
from tests.conftest import REPOSITORY
from tests.support.stored_scores import hashes, look_after, stored_rows

Key = tuple[bytes, bytes, bytes]


def seen_by_readers(database: Database) -> dict[Key, float]:
    """Each pair's score as runs read it, of both rerankers."""
    found = {}
    for reranker in hashes(np.arange(2)).to_pylist():
        known = PairScores(database, reranker, hashes(np.arange(20)).to_pylist()).known
        for query, doc, score in known.select("query_hash", "doc_hash", "score").iter_rows():
            found[query, doc, reranker] = score
    return found


@pytest.mark.parametrize("seed", range(3))
def test_one_row_per_pair_stays_and_readers_see_no_difference(tmp_path: Path, seed: int) -> None:
    database = Database(str(tmp_path))
    for part in range(4):
        database.append(TABLE, stored_rows(10 * seed + part))
    before = seen_by_readers(database)
    assert 0 < len(before) < 4 * 3000
    planned = tidy_scores(database, dry_run=True)
    assert database.need(TABLE).count_rows() == planned.rows == 4 * 3000
    assert tidy_scores(database) == planned
    assert planned.duplicates == 4 * 3000 - len(before)
    assert database.need(TABLE).count_rows() == len(before)
    assert seen_by_readers(database) == before
    database.optimize(TABLE)
    assert tidy_scores(database).duplicates == 0


def test_a_pair_and_its_mirror_are_two_pairs(tmp_path: Path) -> None:
    database = Database(str(tmp_path))
    some = hashes(np.arange(1, 200))
    columns = {
        "reranker": hashes(np.zeros(199)),
        "score": pa.array(np.zeros(199, np.float32)),
        "epoch": pa.array(np.zeros(199, np.int32)),
    }
    one, two = some, some[::-1]
    database.append(TABLE, pa.table({"query_hash": one, "doc_hash": two, **columns}))
    database.append(TABLE, pa.table({"query_hash": some, "doc_hash": some, **columns}))
    assert tidy_scores(database).duplicates == 1  # (100, 100) is its own mirror


def test_an_empty_store_is_tidy(tmp_path: Path) -> None:
    database = Database(str(tmp_path))
    assert tidy_scores(database).rows == 0
    database.ensure(TABLE, PAIR_SCORES)
    assert tidy_scores(database, lambda: Wanted(frozenset(), frozenset(), frozenset())).rows == 0


def test_addresses_of_before_a_compaction_delete_nothing(tmp_path: Path) -> None:
    """What makes deleting by address safe beside another maintenance; LanceDB must keep to it."""
    database = Database(str(tmp_path))
    for part in range(3):
        database.append(TABLE, stored_rows(part))
    addresses = [
        a for b in database.stream(TABLE, row_ids=True) for a in b.column("_rowid").to_pylist()
    ]
    database.optimize(TABLE)
    before = database.read(TABLE)
    database.delete(TABLE, one_of("_rowid", addresses[1:8000]))
    assert database.read(TABLE).equals(before)


APPENDER = """
import sys
from itertools import count
from pathlib import Path
from reranking.store import Database
from reranking.runs.pairs import TABLE
from tests.support.stored_scores import stored_rows
for part in count():
    if part >= 40 and Path(sys.argv[2]).exists():
        break
    Database(sys.argv[1]).append(TABLE, stored_rows(part, 200, least=part // 15 * 30))
    print(part, flush=True)
"""


@pytest.mark.slow
def test_rows_that_a_run_adds_meanwhile_survive(tmp_path: Path) -> None:
    """A process appends all the time while this one tidies, compacts and prunes five times."""
    database = Database(str(tmp_path / "db"))
    database.append(TABLE, stored_rows(1000))
    enough = tmp_path / "enough"
    command = [sys.executable, "-c", APPENDER, database.uri, str(enough)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE) as appender:
        assert appender.stdout is not None and appender.stdout.readline()
        duplicates = [
            look_after(database, versions=timedelta(seconds=5)).duplicates for _ in range(5)
        ]
        enough.touch()
        appended = 1 + len(appender.stdout.readlines())
    assert appender.returncode == 0
    assert sum(duplicates) > 0
    alone = Database(str(tmp_path / "alone"))
    alone.append(TABLE, stored_rows(1000))
    for part in range(appended):
        alone.append(TABLE, stored_rows(part, 200, least=part // 15 * 30))
    tidy_scores(database)
    expected = seen_by_readers(alone)
    assert database.need(TABLE).count_rows() == len(expected)
    # Of rows with one epoch the store keeps the first; which that was is the only thing to differ.
    assert seen_by_readers(database).keys() == expected.keys()
    assert epochs(database) == epochs(alone)


def epochs(database: Database) -> dict[Key, int]:
    rows = database.read(TABLE).select(["query_hash", "doc_hash", "reranker", "epoch"])
    best: dict[Key, int] = {}
    for query, doc, reranker, epoch in zip(*rows.to_pydict().values(), strict=True):
        best[query, doc, reranker] = max(epoch, best.get((query, doc, reranker), 0))
    return best


def test_scores_of_unwanted_models_and_texts_go(tmp_path: Path) -> None:
    database = Database(str(tmp_path))
    database.append(TABLE, stored_rows(0))
    ours, queries, documents = (
        frozenset(hashes(np.arange(*bounds)).to_pylist()) for bounds in ((1, 2), (0, 7), (10, 30))
    )

    def wanted() -> Wanted:
        # A run that begins now with another model adds scores of its own: they are not touched.
        database.append(TABLE, stored_rows(1, 100, least=500))
        return Wanted(ours, queries, documents)

    before = seen_by_readers(database)
    tidied = tidy_scores(database, wanted)
    after = {k: v for k, v in seen_by_readers(database).items() if k in before}
    assert after == {
        (q, d, r): score
        for (q, d, r), score in before.items()
        if q in queries and d in documents and r in ours
    }
    assert tidied.rows == 3000 and tidied.unwanted + tidied.duplicates == 3000 - len(after)
    assert database.need(TABLE).count_rows() == len(after) + 100
