"""Is the candidate better than the base? One verdict, and everything it rests on.

The primary measure on one query type decides. All other measures and query types are secondary:
their p-values are corrected together. Several candidates compete for the primary as well, so its
p-values are then corrected too (Holm). Rankings are never filtered; queries are (`comparable`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ir_measures.measures import Measure

from configs.evaluation import DEFAULT_MEASURES, ComparisonSettings
from reranking.arrow import frame
from reranking.errors import InputError
from reranking.evaluation.comparable import Comparable, Notice, SideTables, comparable
from reranking.evaluation.measures import (
    DEFAULT_JUDGED,
    evaluate,
    parse_measures,
    parse_primary,
    with_judged,
)
from reranking.evaluation.moves import MovedQuery, moved_queries
from reranking.evaluation.overlap import Overlap, rankings_of, rankings_overlap
from reranking.evaluation.statistics import (
    Correction,
    Floats,
    Paired,
    compare_paired,
    corrected,
)
from reranking.evaluation.verdict import Changed, Verdict, changed_documents, decide
from reranking.notebook import html_table

MOVED: Final = 50  # queries that moved most, as many as a report shows
LISTED: Final = 20  # of them in JSON


@dataclass(frozen=True)
class Row:
    """One measure on one query type. `p` is raw; `p_corrected` is what findings rest on."""

    query_type: str
    measure: str
    primary: bool
    paired: Paired
    p_corrected: float | None
    judged_base: float | None
    judged_candidate: float | None


@dataclass(frozen=True)
class Comparison:
    """A candidate against a base; `per_query` has PER_QUERY's columns.

    `ties` says what equal scores do to either side's deciding measure, where that shows.
    """

    base: str
    candidate: str
    verdict: Verdict
    reason: str
    rows: tuple[Row, ...]
    notices: tuple[Notice, ...]
    agreement: Overlap
    changed: Changed
    moved: tuple[MovedQuery, ...]
    per_query: pa.Table
    ties: tuple[str, ...] = ()

    @property
    def primary(self) -> Row:
        """The row that decides."""
        return next(row for row in self.rows if row.primary)

    @property
    def primary_values(self) -> dict[str, tuple[float, float]]:
        """{query_id: (base's, candidate's value)} of the row that decides."""
        return _values_of(self.per_query, self.primary)

    def _repr_html_(self) -> str:
        rows = [
            [row.query_type, row.measure, pair.base, pair.candidate, pair.difference, pair.queries]
            for row in self.rows
            for pair in [row.paired]
        ]
        columns = ["query type", "measure", "base", "candidate", "difference", "queries"]
        caption = f"{self.candidate} against {self.base}: {self.verdict}; {self.reason}"
        return html_table(caption, columns, rows)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the per-query table as JSON-like values."""
        names = [f.name for f in fields(self) if f.name != "per_query"]
        values = {name: _plain(getattr(self, name)) for name in names}
        values["rows"] = [{**row, **row.pop("paired")} for row in values["rows"]]
        values["changed"]["share_unjudged"] = self.changed.share
        values["moved"] = values["moved"][:LISTED]
        for moved, query in zip(values["moved"], self.moved, strict=False):
            for row, document in zip(moved["documents"], query.documents, strict=True):
                row["reason"] = document.reason
        return values


PER_QUERY: Final = pa.schema(
    [
        pa.field("query_id", pa.string()),
        pa.field("query_type", pa.string()),
        pa.field("measure", pa.string()),
        pa.field("base", pa.float64()),
        pa.field("candidate", pa.float64()),
        pa.field("difference", pa.float64()),
    ]
)


def _values_of(per_query: pa.Table, row: Row) -> dict[str, tuple[float, float]]:
    rows = frame(per_query).filter(query_type=row.query_type, measure=row.measure)
    return {q: (a, b) for q, a, b in rows.select("query_id", "base", "candidate").iter_rows()}


def _plain(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def compare(
    base: SideTables,
    candidates: Sequence[SideTables],
    judgments: pa.Table,
    settings: ComparisonSettings,
    measures: Sequence[str] = DEFAULT_MEASURES,
    *,
    strict: bool = False,
) -> list[Comparison]:
    """Return one comparison with `base` per candidate, in order.

    `judgments` has query_id, doc_id, relevance (one row for each query and document) and
    optionally query_hash. `settings.query_type` None means hybrid. Raises ConfigError for unknown
    measures and InputError if a side lacks the primary query type or, with `strict`, if the inputs
    drifted.
    """
    primary = parse_primary(settings.primary)
    asked = parse_measures([str(primary), *measures])
    tested = [m for m in asked if m.NAME != "Judged"]  # shown beside the others, not tested
    decides = settings.query_type or "hybrid"
    drafts = [_draft(base, side, judgments, decides, tested, strict) for side in candidates]
    return [_decided(d, judgments, settings) for d in _corrected(drafts, settings.correction)]


@dataclass(frozen=True)
class _Draft:
    """A comparison before the corrections, which look at all candidates together."""

    base: SideTables
    candidate: SideTables
    common: Comparable
    rows: tuple[Row, ...]
    per_query: pa.Table


def _draft(
    base: SideTables,
    candidate: SideTables,
    judgments: pa.Table,
    decides: str,
    asked: list[Measure],
    strict: bool,
) -> _Draft:
    common = comparable(base, candidate, judgments, strict=strict)
    rows: list[Row] = []
    tables: list[pa.Table] = []
    for query_type in _query_types(base, candidate, decides):
        values = _values(base, candidate, judgments, common.compared, query_type, asked)
        tables.append(_per_query(values, common.compared, query_type, asked))
        for measure in asked:
            primary = query_type == decides and measure == asked[0]
            rows.append(_row(values, query_type, measure, primary))
    return _Draft(base, candidate, common, tuple(rows), pa.concat_tables(tables))


def _query_types(base: SideTables, candidate: SideTables, decides: str) -> list[str]:
    """The query types that both sides have, the one that decides first."""
    known = []
    for side in (base, candidate):
        types = pc.unique(side.rankings["query_type"]).to_pylist()
        if types and decides not in types:
            raise InputError(
                f"{side.name} has no {decides} results, only {', '.join(types)}: "
                "choose another query type for the comparison"
            )
        known.append(types)
    both = [t for t in known[0] if t in known[1]]
    return list(dict.fromkeys([decides, *both]))


Values = dict[str, tuple[Floats, Floats]]


def _values(
    base: SideTables,
    candidate: SideTables,
    judgments: pa.Table,
    query_ids: list[str],
    query_type: str,
    asked: list[Measure],
) -> Values:
    """{measure: (base's, candidate's values)} aligned with `query_ids`, with Judged@k."""
    names = [str(m) for m in with_judged(asked)]
    left, right = (
        np.asarray(evaluate(_of_type(side, query_type), judgments, query_ids, names)["value"])
        .reshape(len(query_ids), len(names))
        .T
        for side in (base, candidate)
    )
    return dict(zip(names, zip(left, right, strict=True), strict=True))


def _of_type(side: SideTables, query_type: str) -> pa.Table:
    return side.rankings.filter(pc.equal(side.rankings["query_type"], query_type))


def _per_query(
    values: Values, query_ids: list[str], query_type: str, asked: list[Measure]
) -> pa.Table:
    tables = []
    for measure in map(str, asked):
        base, candidate = values[measure]
        columns = [
            pa.array(query_ids, pa.string()),
            pa.array([query_type] * len(query_ids), pa.string()),
            pa.array([measure] * len(query_ids), pa.string()),
            *(pa.array(numbers, pa.float64()) for numbers in (base, candidate, candidate - base)),
        ]
        tables.append(pa.table(columns, schema=PER_QUERY))
    return pa.concat_tables(tables)


def _row(values: Values, query_type: str, measure: Measure, primary: bool) -> Row:
    base, candidate = values[str(measure)]
    judged = [float(v.mean()) if len(v) else None for v in values[f"Judged@{_depth(measure)}"]]
    paired = compare_paired(base, candidate)
    return Row(query_type, str(measure), primary, paired, paired.p, judged[0], judged[1])


def _depth(measure: Measure) -> int:
    depth: int = measure.params.get("cutoff", DEFAULT_JUDGED)
    return depth


def _corrected(drafts: list[_Draft], method: Correction) -> list[_Draft]:
    """`drafts` with `p_corrected`: the primaries by Holm, all secondaries by `method`."""
    rows = [list(draft.rows) for draft in drafts]
    families: list[tuple[bool, Correction]] = [(True, "holm"), (False, method)]
    for primary, rule in families:
        tested = [
            (d, r, row.paired.p)
            for d, of_draft in enumerate(rows)
            for r, row in enumerate(of_draft)
            if row.primary == primary and row.paired.p is not None
        ]
        adjusted = corrected([p for _, _, p in tested], rule)
        for (d, r, _), p in zip(tested, adjusted, strict=True):
            rows[d][r] = replace(rows[d][r], p_corrected=p)
    return [replace(draft, rows=tuple(new)) for draft, new in zip(drafts, rows, strict=True)]


def _decided(draft: _Draft, judgments: pa.Table, settings: ComparisonSettings) -> Comparison:
    """The finished comparison: agreement, what changed, the verdict and the queries that moved."""
    primary = next(row for row in draft.rows if row.primary)
    k = _depth(parse_measures([primary.measure])[0])
    query_type, difference = primary.query_type, primary.paired.difference
    tables = _of_type(draft.base, query_type), _of_type(draft.candidate, query_type)
    left, right = (rankings_of(table) for table in tables)
    compared = draft.common.compared
    identical = all(left.get(q, []) == right.get(q, []) for q in compared)
    changed = changed_documents(tables, judgments, compared, primary.measure, k, difference)
    verdict, reason = decide(primary.paired, primary.p_corrected, identical, changed, settings)
    return Comparison(
        base=draft.base.name,
        candidate=draft.candidate.name,
        verdict=verdict,
        reason=reason,
        rows=draft.rows,
        notices=draft.common.notices,
        agreement=rankings_overlap(left, right, draft.common.shared, k=k),
        changed=changed,
        moved=moved_queries(
            _values_of(draft.per_query, primary), left, right, judgments, k=k, limit=MOVED
        ),
        per_query=draft.per_query,
    )
