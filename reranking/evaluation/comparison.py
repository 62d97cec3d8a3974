"""Is the candidate better than the base? One verdict, and everything it rests on.

The primary measure on one query type decides. All other measures and query types are secondary:
their p-values are corrected together. Several candidates compete for the primary as well, so its
p-values are then corrected too (Holm). Rankings are never filtered; queries are (see `sides`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ir_measures.measures import Measure

from reranking.errors import ConfigError, InputError
from reranking.evaluation.measures import (
    DEFAULT_JUDGED,
    DEFAULT_MEASURES,
    evaluate,
    parse_measures,
    with_judged,
)
from reranking.evaluation.moves import MovedQuery, moved_queries
from reranking.evaluation.overlap import Overlap, rankings_of, rankings_overlap
from reranking.evaluation.sides import Comparable, Notice, Side, comparable, frame
from reranking.evaluation.statistics import (
    RESAMPLES,
    SEED,
    Correction,
    Floats,
    Paired,
    compare_paired,
    corrected,
)
from reranking.evaluation.verdict import Changed, Rules, Verdict, changed_documents, decide


@dataclass(frozen=True)
class Settings:
    """What is compared and how it is decided. `query_types` None: all that both runs have."""

    primary: str = "nDCG@10"
    query_type: str = "hybrid"
    measures: tuple[str, ...] = DEFAULT_MEASURES
    query_types: tuple[str, ...] | None = None
    rules: Rules = field(default_factory=Rules)
    correction: Correction = "holm"
    moved: int = 20
    resamples: int = RESAMPLES
    seed: int = SEED


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
    """A candidate against a base; `per_query` has PER_QUERY's columns."""

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

    @property
    def primary(self) -> Row:
        """The row that decides."""
        return next(row for row in self.rows if row.primary)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the per-query table, as JSON can say it."""
        names = [f.name for f in fields(self) if f.name != "per_query"]
        said = {name: _plain(getattr(self, name)) for name in names}
        said["rows"] = [{**row, **row.pop("paired")} for row in said["rows"]]
        said["changed"]["share_unjudged"] = self.changed.share
        for told, query in zip(said["moved"], self.moved, strict=True):
            for line, document in zip(told["documents"], query.documents, strict=True):
                line["reason"] = document.reason
        return said


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


def _plain(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def compare(
    base: Side,
    candidates: Sequence[Side],
    judgments: pa.Table,
    settings: Settings | None = None,
    *,
    strict: bool = False,
) -> list[Comparison]:
    """One comparison with `base` per candidate, in order.

    `judgments` has query_id, doc_id, relevance (one row for each query and document) and
    optionally query_hash. Raises ConfigError for unknown measures and InputError where a side
    lacks the primary query type or, with `strict`, where the inputs drifted.
    """
    settings = settings or Settings()
    asked = _asked(settings)
    drafts = [_draft(base, side, judgments, settings, asked, strict) for side in candidates]
    return [_decided(d, judgments, settings) for d in _corrected(drafts, settings.correction)]


def _asked(settings: Settings) -> list[Measure]:
    """The measures to be tested, the primary first; Judged@k is shown beside them, not tested."""
    primary = parse_measures([settings.primary])[0]
    if primary.NAME == "Judged":
        raise ConfigError(f"{settings.primary} says how much was judged; it cannot be the primary")
    others = parse_measures([settings.primary, *settings.measures])
    return [m for m in others if m.NAME != "Judged"]


@dataclass(frozen=True)
class _Draft:
    """A comparison before the corrections, which look at all candidates together."""

    base: Side
    candidate: Side
    common: Comparable
    rows: tuple[Row, ...]
    per_query: pa.Table


def _draft(
    base: Side,
    candidate: Side,
    judgments: pa.Table,
    settings: Settings,
    asked: list[Measure],
    strict: bool,
) -> _Draft:
    common = comparable(base, candidate, judgments, strict=strict)
    rows: list[Row] = []
    tables: list[pa.Table] = []
    for query_type in _query_types(base, candidate, settings):
        values = _values(base, candidate, judgments, common.compared, query_type, asked)
        tables.append(_per_query(values, common.compared, query_type, asked))
        for measure in asked:
            primary = query_type == settings.query_type and measure == asked[0]
            rows.append(_row(values, query_type, measure, primary, settings))
    return _Draft(base, candidate, common, tuple(rows), pa.concat_tables(tables))


def _query_types(base: Side, candidate: Side, settings: Settings) -> list[str]:
    """The query types to compare, the primary's first."""
    known = []
    for side in (base, candidate):
        types = pc.unique(side.rankings["query_type"]).to_pylist()
        if types and settings.query_type not in types:
            raise InputError(
                f"{side.name} has no {settings.query_type} results, only {', '.join(types)}: "
                "choose another query type for the comparison"
            )
        known.append(types)
    both = [t for t in known[0] if t in known[1]]
    wanted = both if settings.query_types is None else settings.query_types
    return list(dict.fromkeys([settings.query_type, *wanted]))


Values = dict[str, tuple[Floats, Floats]]


def _values(
    base: Side,
    candidate: Side,
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


def _of_type(side: Side, query_type: str) -> pa.Table:
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


def _row(
    values: Values, query_type: str, measure: Measure, primary: bool, settings: Settings
) -> Row:
    base, candidate = values[str(measure)]
    judged = [float(v.mean()) if len(v) else None for v in values[f"Judged@{_depth(measure)}"]]
    paired = compare_paired(base, candidate, resamples=settings.resamples, seed=settings.seed)
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


def _decided(draft: _Draft, judgments: pa.Table, settings: Settings) -> Comparison:
    """The finished comparison: agreement, what changed, the verdict and the queries that moved."""
    primary = next(row for row in draft.rows if row.primary)
    k = _depth(parse_measures([primary.measure])[0])
    query_type, difference = settings.query_type, primary.paired.difference
    tables = _of_type(draft.base, query_type), _of_type(draft.candidate, query_type)
    left, right = (rankings_of(table) for table in tables)
    compared = draft.common.compared
    identical = all(left.get(q, []) == right.get(q, []) for q in compared)
    changed = changed_documents(
        tables, judgments, compared, primary.measure, k, difference, settings.rules
    )
    verdict, reason = decide(
        primary.paired, primary.p_corrected, identical, changed, settings.rules
    )
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
            _primary_values(draft, primary), left, right, judgments, k=k, limit=settings.moved
        ),
        per_query=draft.per_query,
    )


def _primary_values(draft: _Draft, primary: Row) -> dict[str, tuple[float, float]]:
    rows = frame(draft.per_query).filter(query_type=primary.query_type, measure=primary.measure)
    return {q: (a, b) for q, a, b in rows.select("query_id", "base", "candidate").iter_rows()}
