"""Several raters' grades brought to one."""

import pyarrow as pa
import pytest

from reranking.errors import InputError
from reranking.fingerprints import text_hash
from reranking.judgments.consensus import consensus, one_per_pair


def judgments(*rows: tuple[str, str, int, str]) -> pa.Table:
    """Judgments from (query, doc, relevance, source)."""
    query_ids, doc_ids, grades, sources = zip(*rows, strict=True)
    return pa.table(
        {
            "query_id": query_ids,
            "doc_id": doc_ids,
            "relevance": pa.array(grades, pa.int32()),
            "source": sources,
        }
    )


def test_several_raters_are_brought_to_the_lower_median() -> None:
    table = consensus(
        judgments(
            ("q", "a", 0, "x"),
            ("q", "a", 3, "y"),
            ("q", "a", 2, "z"),
            ("q", "b", 1, "x"),
            ("q", "b", 2, "y"),
        )
    )
    assert table.to_pylist() == [
        {"query_id": "q", "doc_id": "a", "relevance": 2, "raters": 3},
        {"query_id": "q", "doc_id": "b", "relevance": 1, "raters": 2},
    ]


def test_grades_that_a_label_set_gave_are_no_judgments() -> None:
    table = judgments(
        ("q", "a", 3, "labels:night"), ("q", "a", 0, "ann"), ("q", "b", 1, "labels:x")
    )
    assert consensus(table)["relevance"].to_pylist() == [0]


def test_two_wordings_of_a_query_are_not_mixed() -> None:
    table = judgments(("q", "a", 0, "x"), ("q", "a", 3, "y")).append_column(
        "query_hash", pa.array([text_hash("old"), text_hash("new")], pa.binary(16))
    )
    assert consensus(table).num_rows == 2
    with pytest.raises(InputError, match="several wordings"):
        one_per_pair(table)
