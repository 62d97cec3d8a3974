"""Mining: the selection of sentence-transformers as oracle, then what goes beyond it, by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from configs.labelling import Training
from reranking.errors import InputError
from reranking.labelling.mining import Miner
from tests.support.mined import Scored, judgments_of, mined, pairs_of

if TYPE_CHECKING:
    pass


ROWS = [("q", "pos", 5.0), ("q", "a", 4.0), ("q", "b", 3.0), ("q", "c", 2.0), ("q", "d", 1.0)]


def test_labels_above_the_cut_and_unsure_ones_are_excluded() -> None:
    labels = pa.table(
        {
            "query_id": ["q"] * 3,
            "doc_id": ["a", "b", "c"],
            "label": pa.array([1, None, 0], pa.int32()),
        }
    )
    found, report = mined(ROWS, [("q", "pos")], labels)
    assert found.negatives["doc_id"].to_pylist() == ["c", "d"]
    assert found.negatives["place"].to_pylist() == [1, 2]
    assert report.dropped == {"positive": 1, "label": 1, "unsure": 1}
    assert report.queries_short_of_negatives == 1


def test_copies_of_a_positive_are_excluded() -> None:
    texts = {
        "pos": "The quick brown fox jumps over the lazy dog tonight",
        "a": "the QUICK brown fox jumps -- over the lazy dog, tonight!",
        "b": "the quick brown fox",
        "c": "something else",
    }
    found, report = mined(
        ROWS, [("q", "pos")], texts=lambda ids: {i: texts.get(i, "") for i in ids}
    )
    assert found.negatives["doc_id"].to_pylist() == ["b", "c", "d"]
    assert report.dropped == {"positive": 1, "near-duplicate": 1}


def test_the_same_text_under_another_id_needs_no_texts_to_be_found() -> None:
    pairs = pairs_of(ROWS)
    hashes = pairs["doc_hash"].to_pylist()
    hashes[1] = hashes[0]
    pairs = pairs.set_column(3, "doc_hash", pa.array(hashes, pa.binary(16)))
    miner = Miner(Training(), judgments_of([("q", "pos")]))
    assert miner.mine(pairs).negatives["doc_id"].to_pylist() == ["b", "c", "d"]


def test_negatives_that_people_judged_are_marked() -> None:
    found, report = mined(ROWS, [("q", "pos", 1), ("q", "b", 0)])
    verified = dict(
        zip(
            found.negatives["doc_id"].to_pylist(),
            found.negatives["verified"].to_pylist(),
            strict=True,
        )
    )
    assert verified == {"a": False, "b": True, "c": False}
    assert report.verified == 1


def test_the_false_negative_rate_is_the_mean_probability_of_what_nobody_judged() -> None:
    _, report = mined(ROWS, [("q", "pos", 1), ("q", "b", 0)], probability=[0.9, 0.6, 0.5, 0.3, 0.1])
    assert report.false_negative_rate == pytest.approx((0.6 + 0 + 0.3) / 3)
    _, uncalibrated = mined(ROWS, [("q", "pos")])
    assert uncalibrated.false_negative_rate is None


def test_known_positives_are_hidden_one_at_a_time() -> None:
    """Hidden, a (4.0) would be mined; pos (5.0) would too; with a margin only below 4 neither."""
    _, report = mined(ROWS, [("q", "pos"), ("q", "a")])
    assert (report.hidden_positives.hits, report.hidden_positives.total) == (2, 2)
    _, report = mined(ROWS, [("q", "pos"), ("q", "a")], absolute_margin=1.5)
    # hiding a leaves the bound at 5 - 1.5, under which a at 4.0 is not taken; pos never is
    assert (report.hidden_positives.hits, report.hidden_positives.total) == (0, 2)
    _, report = mined(ROWS, [("q", "pos")])
    assert report.hidden_positives.total == 0


def test_a_margin_needs_a_scored_positive() -> None:
    found, report = mined(ROWS, [("q", "never found")], absolute_margin=0.0)
    assert found.negatives.num_rows == 0
    assert found.positives["score"].to_pylist() == [None]
    assert report.dropped == {"positive not scored": 5}
    assert mined(ROWS, [("q", "never found")])[0].negatives.num_rows == 3


def test_queries_without_a_positive_are_counted_and_left_out() -> None:
    found, report = mined([*ROWS, ("other", "a", 1.0)], [("q", "pos")])
    assert set(found.negatives["query_id"].to_pylist()) == {"q"}
    assert (report.queries, report.queries_without_positive) == (2, 1)


def many(queries: int) -> tuple[list[Scored], list[tuple[str, str]]]:
    random = np.random.default_rng(4)
    rows = [(f"q{q}", f"d{d}", float(random.normal())) for q in range(queries) for d in range(30)]
    return rows, [(f"q{q}", f"d{d}") for q in range(queries) for d in (0, 1)]


@pytest.mark.parametrize("strategy", ["top", "random"])
def test_blocks_do_not_change_the_outcome(strategy: str) -> None:
    rows, positives = many(12)
    mining = Training(sampling_strategy=strategy, range_max=20)
    whole = Miner(mining, judgments_of(positives))
    everything = whole.mine(pairs_of(rows)).negatives
    parts = Miner(mining, judgments_of(positives))
    pieces = [parts.mine(pairs_of(rows[n : n + 120])).negatives for n in range(0, 360, 120)]
    key = [("query_id", "ascending"), ("place", "ascending")]
    assert pa.concat_tables(pieces).sort_by(key).equals(everything.sort_by(key))
    assert parts.report() == whole.report()


def test_random_negatives_lie_in_the_window_and_follow_the_seed() -> None:
    rows, positives = many(40)

    def draw(seed: int) -> pa.Table:
        found, _ = mined(
            rows, positives, sampling_strategy="random", range_min=3, range_max=13, seed=seed
        )
        return found.negatives

    top, _ = mined(rows, positives, num_negatives=13)
    ranks = {(r["query_id"], r["doc_id"]): r["place"] for r in top.negatives.to_pylist()}
    places = [ranks[r["query_id"], r["doc_id"]] for r in draw(1).to_pylist()]
    assert len(places) == 120 and set(places) == set(range(4, 14))
    assert draw(1).equals(draw(1)) and not draw(1).equals(draw(2))


def test_a_query_in_two_blocks_is_refused() -> None:
    miner = Miner(Training(), judgments_of([("q", "pos")]))
    miner.mine(pairs_of(ROWS))
    with pytest.raises(InputError, match="'q' is in two blocks"):
        miner.mine(pairs_of(ROWS))


@pytest.mark.parametrize(
    ("parameters", "fault"),
    [
        ({"num_negatives": 0}, "num_negatives"),
        ({"range_min": -1}, "range_min"),
        ({"range_min": 3, "range_max": 5}, "leave num_negatives"),
        ({"sampling_strategy": "best"}, "sampling_strategy"),
        ({"duplicate_overlap": 0.0}, "duplicate_overlap"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(parameters: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        Training(**parameters)


def test_margins_may_be_kept_in_probabilities() -> None:
    found, _ = mined(
        ROWS,
        [("q", "pos")],
        probability=[0.9, 0.85, 0.6, 0.5, 0.4],
        on="probability",
        absolute_margin=0.1,
    )
    assert found.negatives["doc_id"].to_pylist() == ["b", "c", "d"]
    assert found.negatives["score"].to_pylist() == [3.0, 2.0, 1.0]


def test_a_text_under_several_ids_is_mined_once_and_falls_with_its_twins() -> None:
    pairs = pairs_of(ROWS)
    docs, hashes = pairs["doc_id"].to_pylist(), pairs["doc_hash"].to_pylist()
    place = {doc: at for at, doc in enumerate(docs)}
    hashes[place["c"]] = hashes[place["b"]]
    pairs = pairs.set_column(3, "doc_hash", pa.array(hashes, pa.binary(16)))
    found = Miner(Training(), judgments_of([("q", "pos")])).mine(pairs).negatives
    assert "b" in found["doc_id"].to_pylist() and "c" not in found["doc_id"].to_pylist()
    labels = pa.table({"query_id": ["q"], "doc_id": ["c"], "label": pa.array([1], pa.int32())})
    found = Miner(Training(), judgments_of([("q", "pos")])).mine(pairs, labels).negatives
    assert not {"b", "c"} & set(found["doc_id"].to_pylist())


def test_two_query_ids_of_one_text_are_mined_as_one() -> None:
    """q2 has q's text; what people said of the pair under either id counts for the text."""
    one = pairs_of(ROWS)
    twin = one.set_column(0, "query_id", pa.array(["q2"] * len(one)))
    query_hash = one["query_hash"][0].as_py()
    known = pa.table(
        {
            "query_id": ["q2", "q", "q2"],
            "query_hash": pa.array([query_hash] * 3, pa.binary(16)),
            "doc_id": ["pos", "pos", "a"],
            "relevance": pa.array([1, 0, 1], pa.int32()),
            "source": ["ann"] * 3,
        }
    )
    miner = Miner(Training(), known)
    mined = [miner.mine(block) for block in (pa.concat_tables([one, twin]),)]
    assert set(mined[0].positives["query_id"].to_pylist()) == {"q"}
    assert sorted(mined[0].positives["doc_id"].to_pylist()) == ["a", "pos"]
    assert not {"a", "pos"} & set(mined[0].negatives["doc_id"].to_pylist())
    assert miner.report().queries == 1
    blocks = Miner(Training(), known)
    parts = [blocks.mine(one), blocks.mine(twin)]
    assert parts[0].negatives.equals(mined[0].negatives) and parts[1].negatives.num_rows == 0


@pytest.mark.parametrize(
    ("positive", "candidate", "copy"),
    [
        ("C++", "C", False),
        ("C++", "C#", False),
        ("C++ by example", "c++ by example!", True),
        ("赤いランプは木の机の上にあります", "赤いランプは木の机の上にあります。", True),
        ("赤いランプは木の机の上にあります", "青い車が古い橋の下を走っています", False),
        ("โคมไฟสีแดงอยู่บนโต๊ะไม้", "โคมไฟสีแดงอยู่บนโต๊ะไม้ !", True),
    ],
)
def test_near_copies_are_known_by_signs_and_in_scripts_without_spaces(
    positive: str, candidate: str, copy: bool
) -> None:
    texts = {"pos": positive, "a": candidate}
    found, _ = mined(ROWS, [("q", "pos")], texts=lambda ids: {i: texts.get(i, "") for i in ids})
    assert ("a" not in found.negatives["doc_id"].to_pylist()) == copy
