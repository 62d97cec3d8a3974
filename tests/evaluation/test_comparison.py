"""Comparison: what may be compared, what the verdict is, what moved and why."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from configs.evaluation import ComparisonSettings
from reranking.errors import ConfigError, InputError
from reranking.evaluation import verdict
from reranking.evaluation.comparable import SideTables, comparable
from reranking.evaluation.comparison import Comparison, compare
from reranking.evaluation.moves import moved_documents
from reranking.evaluation.overlap import overlap_at, rankings_of, rankings_overlap, rbo
from tests.support.rankings import best, judged, side, world


def one(
    base: SideTables, candidate: SideTables, judgments: pa.Table, **changes: object
) -> Comparison:
    settings = ComparisonSettings.model_validate(changes)
    return compare(base, [candidate], judgments, settings)[0]


# --- the verdict ---


def test_improved_and_regressed() -> None:
    rankings, qrels = world()
    base, good = side("base", rankings), side("good", best(rankings, qrels))
    up, down = one(base, good, judged(qrels)), one(good, base, judged(qrels))
    assert (up.verdict, down.verdict) == ("improved", "regressed")
    row, back = up.primary, down.primary
    assert row.measure == "nDCG@10" and row.query_type == "hybrid"
    assert row.paired.candidate == pytest.approx(1.0)
    assert row.paired.difference == pytest.approx(-back.paired.difference)
    assert (row.paired.wins, row.paired.losses) == (back.paired.losses, back.paired.wins)
    assert row.judged_base == row.judged_candidate == 1.0
    assert row.paired.low is not None and row.paired.low > 0


def test_identical_runs_do_not_differ_however_few_the_queries() -> None:
    rankings, qrels = world(3)
    result = one(side("a", rankings), side("b", rankings), judged(qrels))
    assert result.verdict == "no difference"
    assert "identical" in result.reason
    assert result.primary.paired.p == 1.0
    assert result.moved == ()
    assert (result.agreement.overlap, result.agreement.rbo) == (1.0, 1.0)
    assert result.agreement.identical == 3


def test_no_difference_only_if_the_interval_lies_inside_the_margin() -> None:
    rankings, qrels = world(60)
    other = dict(rankings)
    for query in ("q0", "q1"):
        other[query] = best(rankings, qrels)[query]
    base, candidate = side("a", rankings), side("b", other)
    assert one(base, candidate, judged(qrels), margin=0.1).verdict == "no difference"
    narrow = one(base, candidate, judged(qrels), margin=0.001)
    assert narrow.verdict == "cannot tell"
    assert "the smallest difference this many queries could show is 0." in narrow.reason


def test_too_few_queries() -> None:
    rankings, qrels = world(20)
    result = one(side("a", rankings), side("b", best(rankings, qrels)), judged(qrels))
    assert result.verdict == "cannot tell"
    assert "too few queries: 20, at least 25 are needed" in result.reason


def test_nothing_comparable_is_no_error() -> None:
    rankings, _ = world(30)
    result = one(side("a", rankings), side("b", rankings), judged({}))
    assert (result.verdict, result.reason) == ("cannot tell", "no query could be compared")
    assert result.agreement.queries == 30
    assert result.primary.paired.queries == 0
    json.dumps(result.to_dict(), allow_nan=False)


def unjudged_world(gone_grade: int | None) -> tuple[SideTables, SideTables, pa.Table]:
    """The candidate lifts the one relevant document a rank, and swaps nine documents for others."""
    base = {f"q{i}": ["n", "yes", *(f"old{j}" for j in range(8))] for i in range(40)}
    new = {q: ["yes", "n", *(f"new{j}" for j in range(8))] for q in base}
    qrels = {q: {"yes": 1, "n": 0} for q in base}
    if gone_grade is not None:
        for grades in qrels.values():
            grades |= {d: gone_grade for j in range(8) for d in (f"old{j}", f"new{j}")}
    corpus = {d: d for docs in (base["q0"], new["q0"]) for d in docs}
    return side("a", base, documents=corpus), side("b", new, documents=corpus), judged(qrels)


def test_unjudged_documents_withdraw_a_verdict_that_they_could_overturn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base, candidate, judgments = unjudged_world(None)
    firm = one(base, candidate, judgments)
    assert firm.verdict == "improved"  # a twentieth of the unjudged could not make up for +0.37
    assert (firm.changed.documents, firm.changed.unjudged) == (40 * 16, 40 * 16)
    assert firm.changed.low is not None and 0 < firm.changed.low < firm.primary.paired.difference
    monkeypatch.setattr(verdict, "UNJUDGED_RELEVANT", 0.9)
    loose = one(base, candidate, judgments)
    assert loose.verdict == "cannot tell"
    assert "too much is unjudged: 640 of the 640" in loose.reason
    base, candidate, judgments = unjudged_world(0)
    graded = one(base, candidate, judgments)
    assert (graded.verdict, graded.changed.share, graded.changed.low) == ("improved", 0.0, None)


# --- corrections ---


def test_secondaries_are_corrected_and_a_lone_primary_is_not() -> None:
    rankings, qrels = world(30)
    other = {**rankings, **{q: best(rankings, qrels)[q] for q in list(rankings)[:5]}}
    kinds = ("hybrid", "fts")
    base = side("a", rankings, query_types=kinds)
    result = one(base, side("b", other, query_types=kinds), judged(qrels))
    assert [r.primary for r in result.rows] == [True, False, False, False, False, False]
    assert result.primary.p_corrected == result.primary.paired.p
    secondary = [r for r in result.rows if not r.primary]
    assert {(r.query_type, r.measure) for r in secondary} >= {("fts", "nDCG@10"), ("fts", "R@20")}
    smallest = min(secondary, key=lambda r: r.paired.p or 0.0)
    assert smallest.p_corrected == pytest.approx(5 * (smallest.paired.p or 0.0))


def test_several_candidates_compete_for_the_primary() -> None:
    rankings, qrels = world(30)
    other = {**rankings, **{q: best(rankings, qrels)[q] for q in list(rankings)[:5]}}
    sides = [side("b", other), side("c", rankings)]
    results = compare(side("a", rankings), sides, judged(qrels), ComparisonSettings())
    assert results[0].primary.p_corrected == pytest.approx(2 * (results[0].primary.paired.p or 0))
    assert [r.candidate for r in results] == ["b", "c"]


def test_primary_of_another_query_type() -> None:
    rankings, qrels = world(30)
    base = side("a", rankings, query_types=("vector", "fts"))
    result = one(base, base, judged(qrels), query_type="fts", primary="RR@10")
    assert (result.rows[0].query_type, result.rows[0].measure) == ("fts", "RR@10")
    with pytest.raises(InputError, match="a has no hybrid results, only vector, fts"):
        one(base, base, judged(qrels), query_type="hybrid")
    with pytest.raises(ConfigError, match="cannot be the primary"):
        one(base, base, judged(qrels), query_type="fts", primary="Judged@10")


# --- drift ---


def drifted() -> tuple[SideTables, SideTables, pa.Table]:
    """One query per way to drift: only `same` and `worse` (without hits) can be compared."""
    ids = ["same", "worse", "gone", "reworded", "stale", "unjudged", "lost", "edited"]
    texts = {q: f"text of {q}" for q in ids}
    corpus = {d: d for d in ("d", "lost", "edited")}
    base = side("A", {q: ["d"] for q in ids}, queries=texts, documents=corpus)
    others = {q: t for q, t in texts.items() if q != "gone"} | {"extra": "x", "reworded": "?"}
    candidate = side(
        "B",
        {q: ["d"] for q in ids if q != "worse"},
        queries=others,
        documents={"d": "d", "edited": "new text"},
    )
    qrels = {q: {"d": 1} for q in [*ids, "extra"] if q != "unjudged"}
    qrels["lost"]["lost"] = 0
    qrels["edited"]["edited"] = 1
    wording = {**texts, "stale": "as it once was", "extra": "x"}
    return base, candidate, judged(qrels, wording)


def test_what_drifted_is_left_out_and_said() -> None:
    base, candidate, judgments = drifted()
    common = comparable(base, candidate, judgments)
    assert common.compared == ["same", "worse"]
    assert {n.reason: (n.examples, n.drift) for n in common.notices} == {
        "not among the queries of A": (("extra",), True),
        "not among the queries of B": (("gone",), True),
        "worded differently in the two runs": (("reworded",), True),
        "without any judgment": (("unjudged",), False),
        "judged for another wording": (("stale",), True),
        "with a judged document that is not in the corpus of B": (("lost",), True),
        "with a judged document whose text differs between the runs": (("edited",), True),
    }
    assert "unjudged" in common.shared and "reworded" not in common.shared


def test_a_query_without_hits_is_compared() -> None:
    base, candidate, judgments = drifted()
    result = one(base, candidate, judgments)
    assert (result.primary.paired.queries, result.primary.paired.losses) == (2, 1)
    assert result.moved[0].query_id == "worse"
    assert result.moved[0].documents[0].kind == "gone"


def test_strict_refuses_drift_but_not_missing_judgments() -> None:
    base, candidate, judgments = drifted()
    with pytest.raises(InputError, match="judged for another wording.*stale"):
        compare(base, [candidate], judgments, ComparisonSettings(), strict=True)
    rankings, qrels = world(30)
    del qrels["q7"]
    settings = ComparisonSettings()
    sides = side("a", rankings), side("b", rankings)
    (result,) = compare(sides[0], sides[1:], judged(qrels), settings, strict=True)
    assert [n.reason for n in result.notices] == ["without any judgment"]


def test_rankings_are_never_filtered() -> None:
    """A document that only one corpus has keeps its rank and pushes the others down."""
    base = side("a", {"q": ["x", "d"]}, documents={"d": "d"})
    candidate = side("b", {"q": ["d"]}, documents={"d": "d"})
    result = one(base, candidate, judged({"q": {"d": 1}}), primary="RR@10")
    assert (result.primary.paired.base, result.primary.paired.candidate) == (0.5, 1.0)


# --- what moved ---


def test_reasons_per_document() -> None:
    moved = moved_documents(["a", "b", "c", "d"], ["e", "c", "b", "a"], {"a": 2, "e": -1}, k=3)
    assert [(d.doc_id, d.base_rank, d.candidate_rank, d.reason) for d in moved] == [
        ("e", None, 1, "new, grade -1"),
        ("c", 3, 2, "moved +1, unjudged"),
        ("b", 2, 3, "moved -1, unjudged"),
        ("a", 1, 4, "moved -3, grade 2"),
    ]
    (same,) = moved_documents(["a"], ["a"], {}, k=3)
    assert (same.kind, same.reason) == ("same", "same, unjudged")


def test_the_queries_that_moved_most_come_first() -> None:
    base = {"big": ["x", "y", "z", "d"], "small": ["x", "d"], "still": ["d"]}
    new = {"big": ["d"], "small": ["d"], "still": ["d", "x"]}
    corpus = {d: d for d in "dxyz"}
    result = one(
        side("a", base, documents=corpus),
        side("b", new, documents=corpus),
        judged({q: {"d": 1} for q in base}),
        primary="RR@10",
    )
    assert [(m.query_id, m.difference) for m in result.moved] == [("big", 0.75), ("small", 0.5)]
    assert [d.reason for d in result.moved[1].documents] == ["moved +1, grade 1", "gone, unjudged"]
    said = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert said["moved"][1]["documents"][0]["reason"] == "moved +1, grade 1"
    assert said["rows"][0]["difference"] == pytest.approx((0.75 + 0.5) / 3)
    assert "per_query" not in said
    per_query = result.per_query.filter(pa.compute.equal(result.per_query["measure"], "RR@10"))
    assert dict(
        zip(*(per_query[c].to_pylist() for c in ("query_id", "difference")), strict=True)
    ) == {
        "big": 0.75,
        "small": 0.5,
        "still": 0.0,
    }


# --- overlap ---


def test_rank_biased_overlap_by_hand() -> None:
    assert rbo("abc", "abc") == pytest.approx(1.0)
    assert rbo("abc", "xyz") == 0.0
    assert rbo("", "") == 1.0
    assert rbo("", "a") == 0.0
    # No overlap at depth 1, full overlap from depth 2 on: (1-p)/p * p**2 + p**2 = p.
    assert rbo("ab", "ba", 0.9) == pytest.approx(0.9)
    # Overlaps 0, 1, 2, 4, 5: also the figure in public test suites.
    assert rbo("abcde", "bcdae", 0.9) == pytest.approx(0.828, abs=5e-4)
    # Uneven lists: the short one is a prefix, so nothing speaks against full agreement.
    assert rbo("a", "abcd") == pytest.approx(1.0)
    # s=1, l=2, overlaps 0 and 1: (1-p)/p * (1/2) p**2 + (1/2) p**2 = p/2.
    assert rbo("b", "ab", 0.8) == pytest.approx(0.4)
    assert rbo("ab", "b", 0.8) == rbo("b", "ab", 0.8)


def test_overlap_needs_no_judgments() -> None:
    left = {"q": ["a", "b"], "r": ["a"], "s": []}
    right = {"q": ["b", "c"], "r": ["a"]}
    result = rankings_overlap(left, right, ["q", "r", "s"], k=2)
    assert (result.queries, result.identical) == (3, 2)
    assert result.overlap == pytest.approx((0.5 + 1 + 1) / 3)
    assert overlap_at("abc", "cab", 1) == 0.0
    assert rankings_overlap({}, {}, []).overlap is None


def test_rankings_follow_the_rank() -> None:
    table = pa.table({"query_id": ["q", "p", "q"], "doc_id": ["b", "x", "a"], "rank": [10, 1, 9]})
    assert rankings_of(table) == {"p": ["x"], "q": ["a", "b"]}
