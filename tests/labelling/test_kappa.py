"""Agreement: published examples and scikit-learn's kappa as oracles."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pytest

from reranking.errors import InputError
from reranking.judgments.consensus import binarised
from reranking.labelling.kappa import (
    Level,
    agreement,
    disagreements,
    kappa,
    krippendorff_alpha,
    rater_agreement,
)

NAN = np.nan
# Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, example C:
# four observers, twelve units, five values, missing data.
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)


Grades = dict[tuple[str, str], int]


def grades(rows: Grades, **more: object) -> pa.Table:
    """A graded table from {(query, doc): grade}."""
    return pa.table(
        {
            "query_id": [q for q, _ in rows],
            "doc_id": [d for _, d in rows],
            "relevance": pa.array(rows.values(), pa.int32()),
            **more,
        }
    )


@pytest.mark.parametrize(
    ("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)]
)
def test_alpha_is_the_published_one(level: Level, published: float) -> None:
    assert krippendorff_alpha(PUBLISHED, level) == pytest.approx(published, abs=0.0005)


def test_alpha_of_two_observers_and_binary_data_is_the_published_one() -> None:
    """Example A of the same paper: ten units, alpha = 0.095."""
    ratings = [[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]]
    assert krippendorff_alpha(np.array(ratings)) == pytest.approx(0.095, abs=0.0005)


def test_alpha_at_its_ends() -> None:
    assert krippendorff_alpha(np.array([[1, 2, 3], [1, 2, 3]])) == 1.0
    assert np.isnan(krippendorff_alpha(np.array([[1, 1], [1, 1]])))
    assert np.isnan(krippendorff_alpha(np.array([[1, NAN], [NAN, 2]])))


@pytest.mark.parametrize("weights", ["none", "linear", "quadratic"])
def test_kappa_is_scikit_learns(weights: str) -> None:
    from sklearn.metrics import cohen_kappa_score, confusion_matrix

    random = np.random.default_rng(0)
    left = random.integers(0, 4, 200)
    right = np.clip(left + random.integers(-1, 2, 200), 0, 3)
    expected = cohen_kappa_score(left, right, weights=None if weights == "none" else weights)
    assert kappa(confusion_matrix(left, right).astype(float), weights) == pytest.approx(expected)


def two_gradings(queries: int = 40, seed: int = 0) -> tuple[Grades, Grades]:
    random = np.random.default_rng(seed)
    left, right = {}, {}
    for query in range(queries):
        for doc in range(5):
            key = (f"q{query}", f"d{doc}")
            left[key] = int(random.integers(0, 4))
            right[key] = left[key] if random.random() < 0.6 else int(random.integers(0, 4))
    return left, right


def test_two_gradings_agree_as_the_oracles_say() -> None:
    from sklearn.metrics import cohen_kappa_score

    left, right = two_gradings()
    found = agreement(grades(left), grades({**right, ("only", "right"): 1}))
    first, second = list(left.values()), [right[key] for key in left]
    assert (found.pairs, found.queries) == (200, 40)
    assert found.same == pytest.approx(np.mean(np.equal(first, second)))
    assert found.kappa.value == pytest.approx(cohen_kappa_score(first, second))
    assert found.kappa_quadratic.value == pytest.approx(
        cohen_kappa_score(first, second, weights="quadratic")
    )
    both = np.array([first, second])
    assert found.alpha_ordinal.value == pytest.approx(krippendorff_alpha(both, "ordinal"))
    assert found.alpha_nominal.value == pytest.approx(krippendorff_alpha(both))
    assert sum(found.confusion["count"].to_pylist()) == 200
    assert found.kappa.low < found.kappa.value < found.kappa.high


def test_the_confusion_is_by_grade() -> None:
    left, right = {("q", "a"): 0, ("q", "b"): 2}, {("q", "a"): 2, ("q", "b"): 2}
    rows = agreement(grades(left), grades(right)).confusion.to_pylist()
    assert rows == [
        {"left": 0, "right": 2, "count": 1},
        {"left": 2, "right": 2, "count": 1},
    ]


def test_intervals_widen_when_a_query_decides_for_all_its_pairs() -> None:
    """Thirty verdicts repeated ten times each are thirty observations, not three hundred."""
    random = np.random.default_rng(2)
    left = {(f"q{q}", f"d{d}"): q % 2 for q in range(30) for d in range(10)}
    flips = random.random(30) < 0.2
    copied = {key: left[key] ^ int(flips[int(key[0][1:])]) for key in left}
    alone = {key: left[key] ^ int(random.random() < 0.2) for key in left}
    together = agreement(grades(left), grades(copied)).kappa
    apart = agreement(grades(left), grades(alone)).kappa
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_one_grade_only_says_nothing_about_agreement() -> None:
    same = {("q1", "a"): 1, ("q2", "b"): 1}
    found = agreement(grades(same), grades(same))
    assert found.same == 1.0 and found.kappa.value is None and found.alpha_nominal.value is None


def test_gradings_without_a_common_pair_are_refused() -> None:
    with pytest.raises(InputError, match="no pair in common"):
        agreement(grades({("q", "a"): 1}), grades({("q", "b"): 1}))


def test_a_pair_graded_twice_is_refused() -> None:
    twice = pa.concat_tables([grades({("q", "a"): 1}), grades({("q", "a"): 2})])
    with pytest.raises(InputError, match="consensus"):
        agreement(twice, grades({("q", "a"): 1}))


def test_several_raters_each_a_part_of_the_pairs() -> None:
    rows = [
        (f"q{unit % 3}", f"d{unit}", int(value), f"observer{number}")
        for number, ratings in enumerate(PUBLISHED)
        for unit, value in enumerate(ratings)
        if not np.isnan(value)
    ]
    table = pa.table(
        dict(
            zip(("query_id", "doc_id", "relevance", "source"), zip(*rows, strict=True), strict=True)
        )
    )
    found = rater_agreement(table)
    assert found.raters == ("observer0", "observer1", "observer2", "observer3")
    assert found.pairs == 11
    assert found.nominal.value == pytest.approx(0.743, abs=0.0005)
    assert found.ordinal.value == pytest.approx(0.815, abs=0.0005)
    assert found.interval.value == pytest.approx(0.849, abs=0.0005)


def test_a_single_rater_agrees_with_nobody() -> None:
    table = grades({("q", "a"): 1}, source=["x"])
    found = rater_agreement(table)
    assert found.pairs == 0 and found.nominal.value is None
    assert rater_agreement(table.slice(0, 0)).ordinal.value is None


def test_the_most_telling_disagreements_come_first() -> None:
    keys = [("q", name) for name in "abcde"]
    left = grades(
        dict(zip(keys, [3, 1, 1, 0, 2], strict=True)), probability=[0.7, 0.55, 0.95, 0.1, 0.8]
    )
    right = grades(dict(zip(keys, [0, 0, 0, 0, 2], strict=True)))
    rows = disagreements(left, right).to_pylist()
    assert [(r["doc_id"], r["gap"]) for r in rows] == [("a", 3), ("c", 1), ("b", 1)]
    assert disagreements(left, right, limit=1).num_rows == 1


def test_grades_become_two_classes() -> None:
    table = binarised(grades({("q", "a"): 0, ("q", "b"): 1, ("q", "c"): 3}), relevant=2)
    assert table["relevance"].to_pylist() == [0, 0, 1]


def test_a_rater_who_disagrees_with_everybody_is_named_with_figures() -> None:
    rows = []
    for number in range(60):
        truth = number % 4
        rows += [(f"q{number}", "d", truth, who) for who in ("ann", "bob", "eve")]
        rows.append((f"q{number}", "d", 3 - truth, "mal"))
    names = ("query_id", "doc_id", "relevance", "source")
    table = pa.table({n: [row[at] for row in rows] for at, n in enumerate(names)})
    each = {one.rater: one for one in rater_agreement(table).each}
    assert [name for name, one in each.items() if one.apart] == ["mal"]
    assert each["mal"].pairs == 60
    assert each["mal"].against.value < 0 < each["mal"].others.value == 1.0
    assert each["ann"].against.value == 1.0
    alone = rater_agreement(table.filter(pa.compute.equal(table["source"], "ann")))
    assert alone.each == ()
