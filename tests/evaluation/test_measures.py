"""Measures: values worked out by hand, and ir-measures itself as the oracle."""

from __future__ import annotations

import math
import subprocess

import ir_measures
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reranking.errors import ConfigError, InputError
from reranking.evaluation.measures import (
    DEFAULT_MEASURES,
    evaluate,
    parse_measures,
    without_judgments,
)
from reranking.evaluation.summaries import slice_measures, summarise, worst_slice

Run = dict[str, list[str]]
Qrels = dict[str, dict[str, int]]


def as_ranking(run: Run) -> pa.Table:
    rows = [(q, d, r) for q, docs in run.items() for r, d in enumerate(docs, 1)]
    return pa.table(
        {
            "query_id": pa.array([r[0] for r in rows], pa.string()),
            "doc_id": pa.array([r[1] for r in rows], pa.string()),
            "rank": pa.array([r[2] for r in rows], pa.int32()),
        }
    )


def as_judgments(qrels: Qrels) -> pa.Table:
    rows = [(q, d, g) for q, docs in qrels.items() for d, g in docs.items()]
    return pa.table(
        {
            "query_id": pa.array([r[0] for r in rows], pa.string()),
            "doc_id": pa.array([r[1] for r in rows], pa.string()),
            "relevance": pa.array([r[2] for r in rows], pa.int32()),
        }
    )


def values(run: Run, qrels: Qrels, *measures: str, ids: list[str] | None = None) -> dict:
    table = evaluate(as_ranking(run), as_judgments(qrels), ids or list(qrels), measures)
    return {(r["query_id"], r["measure"]): r["value"] for r in table.to_pylist()}


def value(run: list[str], qrels: dict[str, int], measure: str) -> float:
    name = str(parse_measures([measure])[0])
    return values({"q": run}, {"q": qrels}, measure)["q", name]


# "a" is highly relevant, "b" relevant, "n" judged and not relevant, "m" negative; "u" unjudged.
GRADES = {"a": 3, "b": 1, "n": 0, "m": -1}
RANKED = ["n", "a", "u", "b", "m"]


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        ("nDCG@10", (3 / math.log2(3) + 1 / math.log2(5)) / (3 + 1 / math.log2(3))),
        ("nDCG@2", (3 / math.log2(3)) / (3 + 1 / math.log2(3))),
        ("nDCG(dcg='exp-log2')@10", (7 / math.log2(3) + 1 / math.log2(5)) / (7 + 1 / math.log2(3))),
        ("nDCG(dcg='exp-log2')@1", 0.0),
        ("nDCG(dcg='exp-log2')", (7 / math.log2(3) + 1 / math.log2(5)) / (7 + 1 / math.log2(3))),
        ("RR@10", 1 / 2),
        ("RR@1", 0.0),
        ("RR(rel=2)@10", 1 / 2),
        ("R@2", 1 / 2),
        ("R@4", 1.0),
        ("P@4", 2 / 4),
        ("AP", (1 / 2 + 2 / 4) / 2),
        ("Success@1", 0.0),
        ("Judged@3", 2 / 3),
        ("Judged@5", 4 / 5),
        ("P(judged_only=True)@4", 2 / 4),
        ("P(judged_only=True)@3", 2 / 3),
        ("Accuracy", 1 - (1 + 2) / (2 * 3)),
        ("Accuracy@2", 0.0),
    ],
)
def test_hand_computed(measure: str, expected: float) -> None:
    assert value(RANKED, GRADES, measure) == pytest.approx(expected, abs=1e-6)


def test_a_negative_grade_is_judged_and_not_relevant() -> None:
    """trec_eval alone takes -1 for unjudged: `judged_only` would then skip the document."""
    assert value(["m", "a"], GRADES, "P(judged_only=True)@1") == 0.0
    assert value(["m", "a"], GRADES, "Judged@1") == 1.0
    assert value(["m", "a"], GRADES, "nDCG(dcg='exp-log2')@1") == 0.0


def test_a_query_with_negative_grades_only() -> None:
    """Given these grades as they are, pytrec_eval crashes or never returns."""
    names = ("nDCG@10", "Bpref", "infAP", "AP", "Judged@10")
    got = values({"q": ["u", "m"]}, {"q": {"m": -1, "o": -2}}, *names)
    assert [got["q", name] for name in names] == [0.0, 0.0, 0.0, 0.0, 0.5]


def test_accuracy_where_only_relevant_documents_were_found() -> None:
    assert value(["a", "b"], GRADES, "Accuracy") == 1.0
    assert value(["u"], GRADES, "Accuracy") == 0.0


def test_exponential_gain_starts_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    assert value(["a"], {"a": 1}, "nDCG(dcg='exp-log2')@10") == 1.0


def test_absurd_grades_are_refused() -> None:
    with pytest.raises(InputError, match="2000000000"):
        value(["a"], {"a": 2_000_000_000}, "nDCG@10")
    with pytest.raises(InputError, match="too large for exponential gain"):
        value(["a"], {"a": 100}, "nDCG(dcg='exp-log2')@10")


def test_without_hits_the_default_counts_and_without_judgments_the_query_is_left_out() -> None:
    run, qrels = {"found": ["a"], "stranger": ["a"]}, {"found": {"a": 1}, "empty": {"a": 1}}
    ids = ["empty", "found", "stranger", "found"]
    got = values(run, qrels, "nDCG@10", ids=ids)
    assert got == {
        ("empty", "nDCG@10"): 0.0,
        ("empty", "Judged@10"): 0.0,
        ("found", "nDCG@10"): 1.0,
        ("found", "Judged@10"): 1.0,
    }
    assert without_judgments(as_judgments(qrels), ids) == ["stranger"]


def test_only_the_asked_queries_are_measured() -> None:
    run, qrels = {"a": ["x"], "b": ["x"]}, {"a": {"x": 1}, "b": {"x": 1}}
    assert {q for q, _ in values(run, qrels, "RR@10", ids=["b"])} == {"b"}


def test_nothing_ranked_and_nothing_asked() -> None:
    assert values({}, {"q": {"a": 1}}, "RR@10") == {("q", "RR@10"): 0.0, ("q", "Judged@10"): 0.0}
    empty = evaluate(as_ranking({}), as_judgments({}), [], ["RR@10"])
    assert empty.num_rows == 0
    assert empty.column_names == ["query_id", "measure", "value"]


def test_judged_stands_beside_every_cutoff() -> None:
    names = {m for _, m in values({}, {"q": {"a": 1}}, "nDCG@5", "R@20", "AP")}
    assert names == {"nDCG@5", "R@20", "AP", "Judged@5", "Judged@20"}
    assert {m for _, m in values({}, {"q": {"a": 1}}, "AP")} == {"AP", "Judged@10"}


def test_rank_decides_not_the_row_order() -> None:
    ranking = pa.table({"query_id": ["q", "q"], "doc_id": ["late", "first"], "rank": [7, 2]})
    table = evaluate(ranking, as_judgments({"q": {"late": 1}}), ["q"], ["RR@10"])
    assert table["value"][0].as_py() == 0.5


def test_document_named_like_its_query() -> None:
    run, qrels = {"q": ["q", "a"]}, {"q": {"q": 1, "a": 1}}
    table = evaluate(
        as_ranking(run), as_judgments(qrels), ["q"], ["RR@10", "R@1"], ignore_identical_ids=True
    )
    assert table["value"].to_pylist()[:2] == [1.0, 1.0]


def test_ambiguous_tables_are_refused() -> None:
    judgments = as_judgments({"q": {"a": 1}})
    with pytest.raises(InputError, match="share rank 1"):
        tied = pa.table({"query_id": ["q", "q"], "doc_id": ["a", "b"], "rank": [1, 1]})
        evaluate(tied, judgments, ["q"])
    with pytest.raises(InputError, match="more than one rank"):
        evaluate(as_ranking({"q": ["a", "a"]}), judgments, ["q"])
    with pytest.raises(InputError, match="more than one relevance"):
        evaluate(as_ranking({}), pa.concat_tables([judgments, judgments]), ["q"])


def test_all_faults_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_measures(["nDCG@10", "bogus@3", "ERR@10", "P", "nDCG@0", "AP(", "NDCG(cut=3)@2"])
    text = str(caught.value)
    for fault in ("bogus@3", "ERR@10", "'P': needs a cutoff", "nDCG@0", "AP(", "NDCG(cut=3)@2"):
        assert fault in text
    assert "'nDCG@10':" not in text
    with pytest.raises(ConfigError, match="no measure"):
        parse_measures([])


def test_aliases_are_one_measure() -> None:
    assert [str(m) for m in parse_measures(["NDCG@10", "nDCG@10", "MRR@10"])] == [
        "nDCG@10",
        "RR@10",
    ]


def test_gains_do_not_leak_into_other_measures() -> None:
    """Asked in one call, ir-measures 0.4.3 would apply the gains to the plain nDCG as well."""
    names = ("nDCG(gains={1:9})@10", "nDCG@10", "nDCG(judged_only=True)@1")
    run, qrels = {"q": ["u", "b", "a"]}, {"q": {"a": 3, "b": 1}}
    together = values(run, qrels, *names)
    for name in names:
        assert together["q", name] == pytest.approx(values(run, qrels, name)["q", name])
    assert together["q", names[0]] != together["q", names[1]]


def metrics_of(*rows: tuple[str, str, str, float]) -> pa.Table:
    stage, query, measure, numbers = zip(*rows, strict=True)
    return pa.table(
        {
            "query_type": ["hybrid"] * len(rows),
            "stage": stage,
            "query_id": query,
            "measure": measure,
            "value": pa.array(numbers, pa.float64()),
        }
    )


def test_means_per_stage_and_measure() -> None:
    metrics = metrics_of(
        ("first", "a", "RR@10", 1.0),
        ("first", "b", "RR@10", 0.5),
        ("reranked", "a", "RR@10", 1.0),
        ("reranked", "a", "AP", 0.25),
    )
    rows = [tuple(row.values())[1:] for row in summarise(metrics).to_pylist()]
    assert rows == [
        ("first", "RR@10", 2, 0.75),
        ("reranked", "RR@10", 1, 1.0),
        ("reranked", "AP", 1, 0.25),
    ]


def test_slices_by_tag_and_length_name_the_worst() -> None:
    metrics = metrics_of(
        ("first", "a", "AP", 1.0), ("first", "b", "AP", 0.5), ("first", "c", "AP", 0.0)
    )
    queries = pa.table(
        {
            "query_id": ["a", "b", "c"],
            "text": ["two words", "now these are  five words", "one"],
            "tags": pa.array([["x", "y", "x"], ["y"], None], pa.list_(pa.string())),
        }
    )
    table = slice_measures(metrics, queries)
    got = {(r["kind"], r["slice"]): (r["queries"], r["mean"]) for r in table.to_pylist()}
    assert got == {
        ("tag", "x"): (1, 1.0),
        ("tag", "y"): (2, 0.75),
        ("length", "1-2 words"): (2, 0.5),
        ("length", "3-5 words"): (1, 0.5),
    }
    counts = [3 * count for count in table["queries"].to_pylist()]
    larger = table.set_column(table.column_names.index("queries"), "queries", [counts])
    worst = worst_slice(larger, "AP", "hybrid", "first")
    assert worst is not None and worst["slice"] == "1-2 words"
    assert worst_slice(table, "AP", "hybrid", "first") is None
    untagged = slice_measures(metrics, queries.drop_columns(["tags"]))
    assert set(untagged["kind"].to_pylist()) == {"length"}


DOCS = [f"d{i}" for i in range(8)]
runs = st.dictionaries(
    st.sampled_from("pqrs"), st.lists(st.sampled_from(DOCS), unique=True, min_size=1)
)
graded = st.dictionaries(
    st.sampled_from("qrst"),
    st.dictionaries(st.sampled_from(DOCS), st.integers(-2, 3), min_size=1),
    min_size=1,
)


@settings(max_examples=60)
@given(run=runs, qrels=graded)
def test_equal_to_ir_measures(run: Run, qrels: Qrels) -> None:
    judged = [f"Judged@{k}" for k in (3, 10, 20, 50)]
    names = [*DEFAULT_MEASURES, "AP", "P@3", "Bpref", "Rprec", "nDCG", *judged]
    clamped = {q: {d: max(g, 0) for d, g in docs.items()} for q, docs in qrels.items()}
    scored = {q: {d: 100.0 - i for i, d in enumerate(docs)} for q, docs in run.items()}
    oracle = {
        (m.query_id, str(m.measure)): m.value
        for name in names
        for m in ir_measures.iter_calc([ir_measures.parse_measure(name)], clamped, scored)
        if m.query_id in qrels
    }
    assert values(run, qrels, *names) == pytest.approx(oracle, abs=1e-9)
