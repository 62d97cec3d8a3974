"""Judgments in: contradictions are rejects, a text under several query ids is judged for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from reranking.fingerprints import text_hash
from reranking.judgments.lists import stored_list
from reranking.judgments.store import store_judgments
from reranking.sources.open import read_judgments
from reranking.store import Database
from tests.support.sources import source

TEXTS = {"q1": "river", "q2": " lamp ", "q3": "river", "q4": "-minus"}
Import = Callable[..., list[str]]


@pytest.fixture
def database(tmp_path: Path) -> Database:
    return Database(str(tmp_path / "db"))


@pytest.fixture
def imported(database: Database, tmp_path: Path) -> Import:
    """Import lines of a form; the reasons of the rejects."""

    def take(form: str, *lines: str) -> list[str]:
        path = tmp_path / f"answers.{'tsv' if form == 'trec' else 'csv'}"
        path.write_text("\n".join(lines) + "\n", "utf-8")
        queries = pa.table(
            {
                "query_set": ["s"] * len(TEXTS),
                "query_id": list(TEXTS),
                "text": list(TEXTS.values()),
                "text_hash": pa.array([text_hash(t) for t in TEXTS.values()], pa.binary(16)),
            }
        )
        rows = read_judgments(source(form, str(path)))
        store_judgments(database, "j", queries, rows, rater="r", source_fp=form)
        found = database.read("rejects", columns=["row_number", "reason"])
        kept = found.to_pylist() if found.num_rows else []
        return [r["reason"] for r in sorted(kept, key=lambda r: int(r["row_number"]))]

    return take


def grades(database: Database) -> dict[tuple[str, str], int]:
    rows = stored_list(database, "j").to_pylist()
    return {(r["query_id"], r["doc_id"]): r["relevance"] for r in rows}


@pytest.mark.parametrize("form", ["csv", "trec"])
def test_of_a_contradiction_the_first_grade_holds(
    database: Database, imported: Import, form: str
) -> None:
    rows = [("q1", "d1", 1), ("q1", "d1", 1), ("q1", "d2", 0), ("q1", "d2", 2), ("q2", "d2", 2)]
    if form == "csv":
        lines = ["query_id,doc_id,relevance", *(f"{q},{d},{g}" for q, d, g in rows)]
    else:
        lines = [f"{q} 0 {d} {g}" for q, d, g in rows]
    assert imported(form, *lines) == [
        "document 'd2' is graded 2 here and 0 before, by the same rater"
    ]
    assert grades(database) == {("q1", "d1"): 1, ("q1", "d2"): 0, ("q2", "d2"): 2}


def test_raters_may_differ(database: Database, imported: Import) -> None:
    lines = ["query_id,doc_id,relevance,source", "q1,d1,0,ann", "q1,d1,2,bob", "q1,d1,1,ann"]
    assert len(imported("csv", *lines)) == 1
    assert sorted(r["relevance"] for r in stored_list(database, "j").to_pylist()) == [0, 2]


def test_a_text_under_several_ids_is_judged_for_each(database: Database, imported: Import) -> None:
    rejects = imported(
        "quepid", "query,docid,rating", "river,d1,3", "lamp,d2,1", " -minus,d3,2", "sea,d1,1"
    )
    assert rejects == ["judges a query not in the set"]
    assert grades(database) == {
        ("q1", "d1"): 3,
        ("q3", "d1"): 3,
        ("q2", "d2"): 1,
        ("q4", "d3"): 2,
    }
