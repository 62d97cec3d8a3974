"""How good is a ranking, query by query? ir-measures' names and values, Arrow in and out.

A measure is computed on `rank`, never on scores. A document graded zero or less is judged and not
relevant; a document without a grade is unjudged. `Judged@k` always stands beside what was asked.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import ir_measures
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from ir_measures.measures import Measure

from configs.evaluation import DEFAULT_MEASURES
from reranking.errors import ConfigError, InputError
from reranking.evaluation.own_measures import OwnMeasure, own_measure

DEFAULT_JUDGED: Final = 10
MAX_GRADE: Final = 10_000  # pytrec_eval reserves memory for every grade up to the highest
VALUES: Final = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("measure", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)

_BLOCK: Final = 1000  # queries handed to ir-measures at once: bounds the Python objects alive
_BUILTIN: Final = ir_measures.providers.FallbackProvider(
    [ir_measures.pytrec_eval, ir_measures.compat, ir_measures.msmarco]
)
_TINY_QRELS: Final = {"q": {"a": 1, "b": 0}}
_TINY_RUN: Final = {"q": {"b": -1.0, "a": -2.0}}


def parse_measures(names: Sequence[str]) -> list[Measure]:
    """Return the measures that `names` ask for, each once, in ir-measures' notation.

    Raises ConfigError that lists every unknown, malformed or unavailable measure.
    """
    measures: dict[str, Measure] = {}
    faults: list[str] = []
    for name in names:
        try:
            measure = _parse(name)
            measures[str(measure)] = measure
        except Exception as error:  # ir-measures answers nonsense with many kinds of exceptions
            faults.append(f"{name!r}: {error}")
    if not names:
        faults.append("no measure was given")
    if faults:
        listed = "\n  ".join(faults)
        raise ConfigError(
            f"these measures cannot be computed:\n  {listed}\n"
            "Expected ir-measures' names such as nDCG@10, RR@10, R@100, P(rel=2)@5, AP, Judged@10."
        )
    return list(measures.values())


def parse_primary(name: str) -> Measure:
    """Return the measure that decides; raises ConfigError if `name` cannot be one."""
    measure = parse_measures([name])[0]
    if measure.NAME == "Judged":
        raise ConfigError(f"{name} says how much was judged; it cannot be the primary measure")
    return measure


def _parse(name: str) -> Measure:
    """The measure called `name`; raises what ir-measures raises for an unknown one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its parser uses ast.Num
        measure = ir_measures.parse_measure(name)
    spec = measure.SUPPORTED_PARAMS.get("cutoff")
    if spec is not None and spec.required and "cutoff" not in measure.params:
        raise ValueError(f"needs a cutoff, such as {name}@10")
    measure.validate_params()
    cutoff = measure.params.get("cutoff", 1)
    if type(cutoff) is not int or cutoff < 1:
        raise ValueError(f"the cutoff must be a whole number from 1, not {cutoff}")
    if own_measure(measure) is not None:
        return measure
    if not _BUILTIN.supports(measure):
        raise ValueError("ir-measures needs another program or package for it")
    list(_BUILTIN.iter_calc([measure], _TINY_QRELS, _TINY_RUN))  # faults surface now, not at night
    return measure


def with_judged(measures: Sequence[Measure]) -> list[Measure]:
    """Return `measures` and `Judged@k` for each cutoff they use (k = 10 if none has one)."""
    cutoffs = {m.params["cutoff"] for m in measures if "cutoff" in m.params}
    judged = [ir_measures.Judged @ k for k in sorted(cutoffs or {DEFAULT_JUDGED})]
    return [*measures, *(j for j in judged if j not in measures)]


def without_judgments(judgments: pa.Table, query_ids: Sequence[str]) -> list[str]:
    """Return those of `query_ids` that `judgments` lacks: `evaluate` leaves them out."""
    known = set(pc.unique(judgments["query_id"]).to_pylist())
    return [query_id for query_id in dict.fromkeys(query_ids) if query_id not in known]


def evaluate(
    ranking: pa.Table,
    judgments: pa.Table,
    query_ids: Sequence[str],
    measures: Sequence[str] = DEFAULT_MEASURES,
    *,
    ignore_identical_ids: bool = False,
) -> pa.Table:
    """Return each measure's value for each query with at least one judgment, as VALUES.

    `ranking` has query_id, doc_id, rank (from 1) for one query type and stage; `judgments` has
    query_id, doc_id, relevance. A query without hits gets the measure's default. With
    `ignore_identical_ids` a document named like its query counts neither as hit nor as judged.
    Raises ConfigError for measures that cannot be computed and InputError for a document ranked
    or judged twice for one query, or two documents of one rank.
    """
    asked = with_judged(parse_measures(measures))
    if ignore_identical_ids:
        ranking, judgments = without_identical(ranking), without_identical(judgments)
    absent = set(without_judgments(judgments, query_ids))
    judged_ids = [q for q in dict.fromkeys(query_ids) if q not in absent]
    hits = _Grouped.of(ranking, judged_ids, "rank")
    _refuse_shared_ranks(hits)
    hits = hits.cut(_deepest(asked))
    grades = _Grouped.of(judgments, judged_ids, "relevance")
    if grades.numbers.max(initial=0) > MAX_GRADE:
        raise InputError(
            f"a relevance grade is {grades.numbers.max()}; expected a short scale such as 0 to 3 "
            f"(at most {MAX_GRADE})"
        )
    plan = _Plan.of(asked)
    values = np.tile([float(m.DEFAULT) for m in asked], (len(judged_ids), 1))
    for start in range(0, len(judged_ids), _BLOCK):
        ids = judged_ids[start : start + _BLOCK]
        block = values[start : start + _BLOCK]
        plan.fill(block, ids, grades.block(ids, start), hits.block(ids, start))
    return _as_table(values, judged_ids, asked)


def _deepest(asked: list[Measure]) -> int | None:
    """How many ranks can matter to the measures; None if all can. Deeper ones only cost time."""
    if any("cutoff" not in m.params or m.params.get("judged_only") for m in asked):
        return None
    return max(int(m.params["cutoff"]) for m in asked)


def without_identical(table: pa.Table) -> pa.Table:
    """Return the rows whose document is not named like its query."""
    return table.filter(pc.not_equal(table["query_id"], table["doc_id"]))


def _as_table(values: npt.NDArray[np.float64], ids: list[str], asked: list[Measure]) -> pa.Table:
    names = [str(m) for m in asked]
    columns = {
        "query_id": pa.array(ids, pa.string()).take(np.repeat(np.arange(len(ids)), len(names))),
        "measure": pa.array(names * len(ids), pa.string()),
        "value": values.ravel(),
    }
    return pa.table(columns, schema=VALUES)


@dataclass(frozen=True)
class _Grouped:
    """Documents of the chosen queries, sorted by query (in the given order) and one number."""

    name: str
    doc_ids: pa.Array
    numbers: npt.NDArray[np.int64]
    bounds: npt.NDArray[np.int64]  # query i owns the rows bounds[i]:bounds[i + 1]

    @classmethod
    def of(cls, table: pa.Table, query_ids: list[str], number: str) -> _Grouped:
        codes = pc.index_in(table["query_id"], pa.array(query_ids, pa.string()))
        kept = codes.is_valid()
        table = table.filter(kept)
        code = np.asarray(codes.filter(kept), dtype=np.int64)
        numbers = np.asarray(table[number], dtype=np.int64)
        order = np.lexsort((numbers, code))
        bounds = np.searchsorted(code[order], np.arange(len(query_ids) + 1))
        doc_ids = table["doc_id"].take(pa.array(order)).combine_chunks()
        return cls(number, doc_ids, numbers[order], bounds)

    def cut(self, depth: int | None) -> _Grouped:
        """Return the first `depth` documents of each query; None keeps all."""
        if depth is None:
            return self
        sizes = np.diff(self.bounds)
        position = np.arange(len(self.numbers)) - np.repeat(self.bounds[:-1], sizes)
        kept = position < depth
        bounds = np.concatenate([[0], np.cumsum(np.minimum(sizes, depth))])
        return _Grouped(self.name, self.doc_ids.filter(kept), self.numbers[kept], bounds)

    def block(self, ids: list[str], start: int) -> dict[str, dict[str, int]]:
        """Return {query: {document: number}} of the queries `ids`, which begin at `start`."""
        bounds = self.bounds[start : start + len(ids) + 1]
        first, last = int(bounds[0]), int(bounds[-1])
        docs = self.doc_ids[first:last].to_pylist()
        numbers = self.numbers[first:last].tolist()
        documents: dict[str, dict[str, int]] = {}
        for query_id, a, b in zip(ids, bounds[:-1] - first, bounds[1:] - first, strict=True):
            if a == b:
                continue
            documents[query_id] = dict(zip(docs[a:b], numbers[a:b], strict=True))
            if len(documents[query_id]) != b - a:
                raise InputError(
                    f"query {query_id!r} has a document with more than one {self.name}; expected "
                    "one row for each query and document: merge the rows first"
                )
        return documents


def _refuse_shared_ranks(hits: _Grouped) -> None:
    """Raises InputError if two documents of a query share a rank: their order is unknown."""
    same = np.diff(hits.numbers) == 0
    owners = np.repeat(np.arange(len(hits.bounds) - 1), np.diff(hits.bounds))
    same &= np.diff(owners) == 0
    if same.any():
        i = int(same.argmax())
        pair = hits.doc_ids[i : i + 2].to_pylist()
        raise InputError(
            f"documents {pair} share rank {hits.numbers[i]} of one query; "
            "expected ranks 1, 2, 3 ... within each query and query type"
        )


@dataclass(frozen=True)
class _Plan:
    """Which measures go to ir-measures together, which are our own, and their columns."""

    groups: list[list[Measure]]
    own: list[tuple[int, OwnMeasure]]
    columns: dict[Measure, int]

    @classmethod
    def of(cls, asked: list[Measure]) -> _Plan:
        """Group the measures that agree in `gains` and `judged_only`.

        ir-measures 0.4.3 lets the first measure's
        choice of these leak into others that are computed in the same call."""
        groups: dict[str, list[Measure]] = {}
        own = []
        for column, measure in enumerate(asked):
            function = own_measure(measure)
            if function is not None:
                own.append((column, function))
                continue
            key = repr((measure.params.get("gains"), measure.params.get("judged_only", False)))
            groups.setdefault(key, []).append(measure)
        return cls(list(groups.values()), own, {m: i for i, m in enumerate(asked)})

    def fill(
        self,
        values: npt.NDArray[np.float64],
        ids: list[str],
        grades: dict[str, dict[str, int]],
        hits: dict[str, dict[str, int]],
    ) -> None:
        """Write the values of the queries `ids` into `values` (queries x measures), in place.

        Negative grades become 0: pytrec_eval takes them for unjudged, and crashes or hangs where
        a query has no others. The scores handed over fall strictly with the rank, so no
        evaluator's own rule for ties can change the order.
        """
        qrels = {q: {d: max(g, 0) for d, g in docs.items()} for q, docs in grades.items()}
        run = {q: {d: -float(r) for d, r in docs.items()} for q, docs in hits.items()}
        rows = {query_id: row for row, query_id in enumerate(ids)}
        for group in self.groups:
            for query_id, measure, value in _calculated(group, qrels, run):
                values[rows[query_id], self.columns[measure]] = value
        for query_id, docs in hits.items() if self.own else ():
            judged = qrels[query_id]
            ranked, grades_of = [judged.get(doc_id) for doc_id in docs], list(judged.values())
            for column, function in self.own:
                values[rows[query_id], column] = function(ranked, grades_of)


def _calculated(
    group: list[Measure], qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]]
) -> Iterator[tuple[str, Measure, float]]:
    for metric in _BUILTIN.iter_calc(group, qrels, run):
        yield metric.query_id, metric.measure, metric.value
