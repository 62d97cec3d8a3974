"""Measures over arrays are those of ir-measures, for any ranking and any grades."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reranking.errors import ConfigError
from reranking.evaluation.array_measures import NOTHING, UNJUDGED, array_measure, deepest
from reranking.evaluation.measures import evaluate, parse_measures

NAMES = [
    *("nDCG@10", "nDCG@3", "nDCG", "nDCG(dcg='exp-log2')@10", "RR@10", "RR", "RR(rel=2)@3", "R@20"),
    *("R(rel=2)@5", "P@5", "P(rel=2)@3", "AP", "AP@10", "AP(rel=2)@5", "Success@1", "Judged@10"),
]
DOCS = [f"d{i}" for i in range(14)]
QUERY = st.tuples(
    st.lists(st.sampled_from(DOCS), max_size=12, unique=True),
    st.dictionaries(st.sampled_from(DOCS), st.integers(-1, 4), min_size=1),
)


def padded(rows: list[list[int]], fill: int) -> np.ndarray:
    width = max((len(r) for r in rows), default=0)
    return np.array([r + [fill] * (width - len(r)) for r in rows], np.int64).reshape(
        len(rows), width
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(QUERY, min_size=1, max_size=5))
def test_they_equal_ir_measures(queries: list[tuple[list[str], dict[str, int]]]) -> None:
    ids = [f"q{i}" for i in range(len(queries))]
    hits = [
        (q, d, r) for q, (docs, _) in zip(ids, queries, strict=True) for r, d in enumerate(docs, 1)
    ]
    known = [(q, d, g) for q, (_, g_of) in zip(ids, queries, strict=True) for d, g in g_of.items()]
    ranking = pa.table(
        {
            "query_id": pa.array([h[0] for h in hits], pa.string()),
            "doc_id": pa.array([h[1] for h in hits], pa.string()),
            "rank": pa.array([h[2] for h in hits], pa.int32()),
        }
    )
    judgments = pa.table(
        {
            "query_id": pa.array([k[0] for k in known], pa.string()),
            "doc_id": pa.array([k[1] for k in known], pa.string()),
            "relevance": pa.array([k[2] for k in known], pa.int32()),
        }
    )
    expected = evaluate(ranking, judgments, ids, NAMES).to_pylist()
    ranked = padded(
        [[max(g[d], 0) if d in g else UNJUDGED for d in docs] for docs, g in queries], NOTHING
    )
    judged = padded([sorted((max(v, 0) for v in g.values()), reverse=True) for _, g in queries], 0)
    for measure in parse_measures(NAMES):
        found = array_measure(measure)(ranked, judged)
        theirs = [r["value"] for r in expected if r["measure"] == str(measure)]
        assert found == pytest.approx(theirs, abs=1e-9), measure
        many = array_measure(measure)(np.stack([ranked, ranked[:, ::-1]]), judged)
        assert many.shape == (2, len(ids)) and (many[0] == found).all()


def test_others_are_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="Rprec cannot be computed.*nDCG, RR"):
        array_measure(parse_measures(["Rprec"])[0])
    assert deepest(parse_measures(["nDCG@10", "R@20"])) == 20
    assert deepest(parse_measures(["nDCG@10", "AP"])) is None
