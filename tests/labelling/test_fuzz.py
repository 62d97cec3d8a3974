"""Any answers of raters: taken in, rejected one by one, or refused with a word of ours."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reranking.errors import RescoreError
from reranking.fingerprints import text_hash
from reranking.labelling.label_studio import read_label_studio
from reranking.labelling.ratings import Answers
from reranking.labelling.sheets import read_ratings

pytestmark = pytest.mark.slow

QUERIES = pa.table(
    {
        "query_id": ["q", "r"],
        "text": ["river", "stone"],
        "text_hash": pa.array([text_hash("river"), text_hash("stone")], pa.binary(16)),
    }
)
GRADES = (0, 1, 2, 3)
FIELDS = st.sampled_from(["q", "r", "d", "river", "query,docid", "rating", "3", "-1", "9" * 30])
CELLS = FIELDS | st.text(max_size=12) | st.floats().map(str)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | CELLS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["annotations", "result", "value", "choices", "rating", "data", "query_id"]
                + ["doc_id", "query_hash", "completed_by", "from_name", "type", "relevance"]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=16,
)


def is_sound(answers: Answers) -> None:
    for row in answers.judgments.to_pylist():
        assert row["relevance"] in GRADES and row["query_id"] and row["doc_id"]


@settings(max_examples=500)
@given(
    header=st.lists(CELLS, max_size=5),
    rows=st.lists(st.lists(CELLS, max_size=5), max_size=5),
    delimiter=st.sampled_from(",;"),
    known=st.booleans(),
)
def test_any_sheet(header: list[str], rows: list[list[str]], delimiter: str, known: bool) -> None:
    out = io.StringIO()
    head = ["query", "docid", "rating"] if known else header
    csv.writer(out, delimiter=delimiter).writerows([head, *rows])
    try:
        is_sound(read_ratings(out.getvalue(), QUERIES, ["ann"], GRADES))
    except RescoreError as error:
        assert str(error)


@settings(max_examples=500)
@given(text=st.text(max_size=300))
def test_any_text(text: str) -> None:
    for read in (
        lambda: read_ratings(text, QUERIES, ["ann"], GRADES),
        lambda: read_label_studio(text, GRADES),
    ):
        try:
            is_sound(read())
        except RescoreError as error:
            assert str(error)


@settings(max_examples=500)
@given(tasks=st.lists(JSON, max_size=4), lines=st.booleans())
def test_any_export_of_label_studio(tasks: list[Any], lines: bool) -> None:
    text = "\n".join(map(json.dumps, tasks)) if lines else json.dumps(tasks)
    try:
        is_sound(read_label_studio(text, GRADES))
    except RescoreError as error:
        assert str(error)
