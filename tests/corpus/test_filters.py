"""Fuzzing `where`: any condition selects what plain Python selects, or is refused."""

from __future__ import annotations

import datetime as dt
import itertools
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from configs.schema import Search
from reranking.corpus.corpus import Corpus, check_filter, texts_of
from reranking.corpus.filters import typed_where, where_condition
from reranking.errors import ConfigError, RescoreError
from reranking.store import Database

FUZZ = settings(
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TEXTS = [
    "",
    "a",
    "it's",
    'x"y',
    "back\\slash",
    "nul\0",
    "'; DROP TABLE t; --",
    "日本",
    "🦊",
    "%",
    "\n",
]
INTS = [0, 1, -1, 7, 2**53, -(2**53), 2**63 - 1, -(2**63), None, 3, 3]
FLOATS = [0.0, -0.0, 1.5, -1.5, 1e300, -1e-300, 5e-324, None, 3.0, 7.25, 1e15]
BOOLS = [True, False, None] * 3 + [True, True]
COLUMNS: dict[str, list[Any]] = {
    "text": TEXTS,
    'it\'s a "text"': [*reversed(TEXTS[1:]), None],
    "Ünïcode 🦊": INTS,
    "select": FLOATS,
    "\\": BOOLS,
}
IDS = list(range(len(TEXTS)))
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}

texts = st.sampled_from(TEXTS) | st.text(max_size=6)
numbers = (
    st.sampled_from([v for v in INTS + FLOATS if v is not None])
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
)


def conditions(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A value, some values, or operators."""
    some = st.lists(values, min_size=1, max_size=4)
    operators = st.dictionaries(st.sampled_from(list(OPERATORS)), values, min_size=1, max_size=3)
    return values | some | operators


FITTING = st.fixed_dictionaries(
    {},
    optional={
        "text": conditions(texts),
        'it\'s a "text"': conditions(texts),
        "Ünïcode 🦊": conditions(numbers),
        "select": conditions(numbers),
        "\\": conditions(st.booleans()),
    },
)
ANY_VALUE = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=5)
    | st.binary(max_size=3)
    | st.dates()
    | st.datetimes(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*OPERATORS, "like", ""]), inner, max_size=2)
    ),
    max_leaves=4,
)
ANY_NAME = st.sampled_from([*COLUMNS, "day", "list", "nothing"]) | st.text(
    st.characters(), max_size=6
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Database, Corpus]:
    """A table of somebody else's whose columns have awkward names and values."""
    folder = tmp_path_factory.mktemp("filters")
    count = len(IDS)
    table = pa.table(
        {"id": IDS}
        | COLUMNS
        | {
            "day": pa.array([dt.date(2026, 1, 1 + i) for i in range(count)]),
            "list": pa.array([[i] for i in range(count)]),
            "nothing": pa.nulls(count),
            "deep": pa.StructArray.from_arrays([pa.array(v) for v in COLUMNS.values()], [*COLUMNS]),
        }
    )
    made = lancedb.connect(folder).create_table("t", table)
    return Database(str(folder)), Corpus("t", int(made.version), False, "id", "text", "vector")


def selected(corpus: tuple[Database, Corpus], where: dict[str, Any]) -> list[int]:
    """The ids that the filter selects, checked as a run checks it."""
    database, table = corpus
    check_filter(database, table, where)
    rows = database.read(
        table.table,
        where_condition(where, database.need(table.table, table.version).schema),
        version=table.version,
    )
    return sorted(rows["id"].to_pylist())


def brute_force(where: dict[str, Any]) -> list[int]:
    """The ids that plain Python selects; null meets no condition."""
    return [i for i in IDS if all(_holds(COLUMNS[c][i], w) for c, w in where.items())]


def _holds(value: Any, condition: Any) -> bool:
    if value is None:
        return False
    if isinstance(condition, dict):
        return all(_compare(OPERATORS[name], value, [v]) for name, v in condition.items())
    return _compare(operator.eq, value, condition if isinstance(condition, list) else [condition])


def _compare(compare: Callable[[Any, Any], bool], value: Any, given: list[Any]) -> bool:
    """As SQL does: where a float is among the numbers, all are compared as floats."""
    if any(isinstance(v, float) for v in [value, *given]):
        value, given = float(value), [float(v) for v in given]
    return any(compare(value, v) for v in given)


@FUZZ
@given(where=FITTING)
@example(where={"text": "' OR 1=1 --"})
@example(where={"text": {"gte": "日", "ne": "🦊"}, "\\": True})
@example(where={"select": {"eq": -0.0}})
@example(where={"Ünïcode 🦊": [2**63 - 1, -(2**63)]})
@example(where={"Ünïcode 🦊": {"lt": 5e-324}})
def test_a_filter_selects_what_plain_python_selects(
    corpus: tuple[Database, Corpus], where: dict[str, Any]
) -> None:
    expected = brute_force(where)
    assert selected(corpus, where) == expected
    assert selected(corpus, {f"deep.{name}": wanted for name, wanted in where.items()}) == expected


@FUZZ
@given(where=st.dictionaries(ANY_NAME, ANY_VALUE, max_size=3))
@example(where={"text": None})
@example(where={"text": "\ud800"})
@example(where={"select": float("nan")})
@example(where={"Ünïcode 🦊": 10**400})
@example(where={"text": {"like": "%"}})
@example(where={"text": {}})
@example(where={"text": []})
@example(where={"text": ["a", 1]})
@example(where={"day": "no date"})
@example(where={"text = 'a' OR 1": 1})
@example(where={"list": 1})
def test_any_condition_is_answered_or_refused(
    corpus: tuple[Database, Corpus], where: dict[str, Any]
) -> None:
    """At the library, where no config stands before it."""
    try:
        selection = selected(corpus, where)
    except RescoreError as error:
        assert error.exit_code == 2
    else:
        assert set(selection) <= set(IDS)


@FUZZ
@given(where=st.dictionaries(ANY_NAME, ANY_VALUE, max_size=3))
def test_what_the_config_lets_through_is_a_filter(
    corpus: tuple[Database, Corpus], where: dict[str, Any]
) -> None:
    try:
        accepted = Search(where=where).where
    except ValidationError:
        return
    try:
        where_condition(accepted, pa.schema([]))
    except ConfigError as error:
        assert "\\ud" in ascii(where) or "surrog" in str(error) or "unsupported" in str(error)


@settings(FUZZ, max_examples=40)
@given(
    name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
    values=st.lists(st.none() | texts, min_size=1, max_size=5),
    wanted=texts,
)
@example(name="a`b", values=["x", None], wanted="x")
@example(name="select * from t", values=["x", None], wanted="x")
@example(name="A", values=["x", None], wanted="x")
def test_columns_may_have_any_name_that_lance_stores(
    tmp_path: Path, name: str, values: list[str | None], wanted: str
) -> None:
    assume(name not in ("id", "*") and not set(name) & set(".`\0"))  # as ingest refuses
    database = Database(str(tmp_path))
    data = pa.table({"id": range(len(values)), name: pa.array(values, pa.string())})
    made = lancedb.connect(tmp_path).create_table("t", data, mode="overwrite")
    corpus = (database, Corpus("t", int(made.version), False, "id", "text", "vector"))
    expected = [i for i, v in enumerate(values) if v == wanted]
    assert selected(corpus, {name: wanted}) == expected
    assert selected(corpus, {name: [wanted]}) == expected


def test_dates_are_compared_with_text(corpus: tuple[Database, Corpus]) -> None:
    where = Search(where={"day": {"gte": dt.date(2026, 1, 3), "lt": "2026-01-06"}}).where
    assert selected(corpus, dict(where)) == [2, 3, 4]
    with pytest.raises(ConfigError, match="Cannot cast string 'later'"):
        selected(corpus, {"day": "later"})


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *itertools.product(["text"], [1, 1.5, True]),
        *itertools.product(["Ünïcode 🦊", "select"], ["1", True]),
        *itertools.product(["\\"], [1, "true", 0.0]),
    ],
)
def test_a_value_of_another_type_is_refused_with_the_columns_type(
    corpus: tuple[Database, Corpus], column: str, value: object
) -> None:
    for condition in (value, [value], {"gte": value}):
        with pytest.raises(ConfigError, match="not comparable with") as caught:
            selected(corpus, {column: condition})
        assert repr(column) in str(caught.value)


def test_every_fault_of_a_filter_is_named(corpus: tuple[Database, Corpus]) -> None:
    with pytest.raises(ConfigError) as caught:
        selected(corpus, {"text": 1, "select": "x", "list": 2, "\\": True})
    for part in ("'text' is string", "'select' is double", "'list' is list"):
        assert part in str(caught.value)
    with pytest.raises(ConfigError, match=r"names \['Text', 'zz'\]; the columns are"):
        selected(corpus, {"zz": 1, "Text": "a", "text": "a"})


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Database, Corpus]:
    """A table with narrow floats and with fields inside structs."""
    folder = tmp_path_factory.mktemp("typed")
    prices = [0.1, 99.99, 16777217.0, -3.3, None, 1e39]
    nested = [{"lang": n, "it's `a`": i} for i, n in enumerate(["en", "d'e", "`", "", None, "en"])]
    table = pa.table(
        {
            "id": list(range(6)),
            "text": ["x"] * 6,
            "f": pa.array(prices, pa.float32()),
            "h": pa.array([0.1, 99.9, 3.3, None, 1.0, 2.0], pa.float16()),
            "meta": pa.array(nested),
        }
    )
    deep = pa.StructArray.from_arrays([pa.array(table[n]) for n in ("f", "h")], ["f", "h"])
    table = table.append_column("deep", deep)
    made = lancedb.connect(folder).create_table("t", table)
    return Database(str(folder)), Corpus("t", int(made.version), False, "id", "text", "vector")


@pytest.mark.parametrize("column", ["f", "h"])
@pytest.mark.parametrize("value", [0.1, 99.99, 99.9, 3.3, -3.3, 16777217, 1])
@pytest.mark.parametrize(("name", "sign"), [("eq", "="), ("lt", "<"), ("gte", ">="), ("ne", "<>")])
def test_a_narrow_float_is_compared_as_its_column_holds_it(
    typed: tuple[Database, Corpus], column: str, value: float, name: str, sign: str
) -> None:
    """The oracle is SQL with the literal cast to the column's type."""
    small = column == "h" and value < 65_504  # beyond it float16 holds nothing
    narrow = float(np.float16(value)) if small else value
    oracle = f"{column} {sign} CAST({narrow} AS FLOAT)"
    rows = typed[0].need("t").search().where(oracle).select(["id"]).to_arrow()["id"].to_pylist()
    assert selected(typed, {column: {name: value}}) == sorted(rows)
    assert selected(typed, {f"deep.{column}": {name: value}}) == sorted(rows)
    if name == "eq":
        assert selected(typed, {column: [value]}) == selected(typed, {column: value})


def test_fields_inside_structs_are_filtered(typed: tuple[Database, Corpus]) -> None:
    assert selected(typed, {"meta.lang": "en"}) == [0, 5]
    assert selected(typed, {"meta.lang": ["d'e", "`"], "f": {"gte": 99.99}}) == [1, 2]
    assert selected(typed, {"meta.it's `a`": {"gt": 1, "lte": 4}}) == [2, 3, 4]
    with pytest.raises(ConfigError, match="search.where names"):
        selected(typed, {"meta.nothing": 1})
    with pytest.raises(ConfigError, match="not comparable with"):
        selected(typed, {"meta.lang": 1})


@FUZZ
@given(st.text(max_size=12), st.text(max_size=12))
def test_no_text_leaves_its_literal(typed: tuple[Database, Corpus], one: str, two: str) -> None:
    """Whatever a value holds, it is compared as a value: the rows are those that equal it."""
    languages = ["en", "d'e", "`", "", None, "en"]
    assume("\0" not in one + two)
    expected = [i for i, n in enumerate(languages) if n in (one, two)]
    assert selected(typed, {"meta.lang": [one, two]}) == expected


def test_only_searches_that_were_compared_otherwise_get_other_ids() -> None:
    schema = pa.schema([("f", pa.float32()), ("d", pa.float64()), ("t", pa.string())])
    same = {"f": [0.5, 3], "d": 0.1, "t": "0.1"}
    assert typed_where(same, schema) == same
    assert typed_where({"f": {"lt": 0.1}}, schema) == {"f": {"lt": 0.10000000149011612}}


def test_ids_that_no_integer_column_can_hold_are_not_found(typed: tuple[Database, Corpus]) -> None:
    database, table = typed
    asked = ["1", "5.0", "abc", "05", "", "-", "9" * 30, "1e1", "\u0663"]
    assert list(texts_of(database, table, asked)) == ["1"]


@pytest.mark.parametrize(
    ("kind", "held"),
    [
        (pa.int8(), ["1", "-128"]),
        (pa.uint8(), ["1", "255"]),
        (pa.int32(), ["1", "-128", "255"]),
        (pa.int64(), ["1", "-128", "255", str(-(2**63))]),
        (pa.uint64(), ["1", "255", str(2**63), str(2**64 - 1)]),
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_integer_ids_of_every_width_are_found(
    tmp_path: Path, kind: pa.DataType, held: list[str], inside: bool
) -> None:
    ids = pa.array([int(i) for i in held], kind)
    column = pa.StructArray.from_arrays([ids], ["id"]) if inside else ids
    table = pa.table({"key": column, "text": ["x"] * len(held)})
    made = lancedb.connect(tmp_path).create_table("t", table)
    name = "key.id" if inside else "key"
    corpus = Corpus("t", int(made.version), False, name, "text", "vector")
    asked = [*held, "300", "-129", "-1", str(2**64), str(2**63 + 7), str(-(2**63) - 1), "5.0", "01"]
    assert sorted(texts_of(Database(str(tmp_path)), corpus, asked)) == sorted(held)
