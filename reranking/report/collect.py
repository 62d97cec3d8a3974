"""From a database to the content of a report: only tables are read, no model is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from reranking.arrow import frame
from reranking.corpus.corpus import texts_of
from reranking.corpus.queries import read_queries
from reranking.evaluation.compare_run import FIRST, Party, compare_runs, judgments_for
from reranking.evaluation.comparison import Comparison, Settings
from reranking.evaluation.evaluate_run import rankings
from reranking.evaluation.history import history
from reranking.evaluation.measures import parse_measures
from reranking.evaluation.moves import MovedQuery, moved_documents
from reranking.evaluation.overlap import rankings_of, rankings_overlap, rbo
from reranking.judgments.lists import grades
from reranking.labelling.label_run import calibration_of
from reranking.labelling.label_sets import list_label_sets, read_labels
from reranking.labelling.scored import ScoredRun
from reranking.report import words
from reranking.report.content import (
    Contrast,
    Distribution,
    History,
    HistoryPoint,
    LabelEvidence,
    Report,
    RunFacts,
    ShownDocument,
    ShownQuery,
)
from reranking.report.figures import distributions, most_changed, slices, with_grades
from reranking.runs.run import Run, done_runs
from reranking.store import Database

MOVED: Final = 50
RANKS: Final = 10
TEXT: Final = 240  # characters shown of a document
_RUNS: Final = 30  # of the history
_LABEL_SETS: Final = 3
_PROVENANCE: Final = (
    ("run", "run_id"),
    ("pipeline", "pipeline"),
    ("search", "search_id"),
    ("query set", "query_set"),
    ("queries content", "queries_content"),
    ("documents table", "documents_table"),
    ("documents version", "documents_version"),
    ("documents content", "documents_content"),
    ("encoder", "encoder"),
    ("reranker", "reranker_model"),
    ("reranker fingerprint", "reranker"),
    ("reranker revision", "reranker_revision"),
    ("scored with", "score_path"),
)


def collect(
    database: Database, run: Party, base: Party | None, asked: str | None, settings: Settings
) -> Report:
    """The content of the report on `run` against `base`, which may be its own first stage.

    `base` is None for a run without a reranker that is compared with nothing; `asked` is the
    judgment list, None for the runs' own. Raises MissingResource where a list is not there.
    """
    judgment_list = judgments_for(database, asked, [run] if base is None else [base, run])
    queries = read_queries(database, run.plan.queries)
    judged = None if judgment_list is None else grades(database, judgment_list, queries).table
    report = Report(
        made_at=datetime.now(UTC),
        version=version("rescore"),
        run=facts(run.run),
        against=_other(run, base),
        contrast=None if base is None else _contrast(run, base),
        differing=_differing(run, base),
        judgment_list=judgment_list,
        judged_pairs=0 if judged is None else judged.num_rows,
        rules=settings.rules,
        comparison=None,
        agreements=(),
        per_query=(),
        slices=(),
        slices_left_out=0,
        moved=(),
        moved_in_all=0,
        shown_ranks=RANKS,
        distributions=_distributions(database, run.plan, judged),
        history=_history(database, run.run, judgment_list, settings),
        labels=_labels(database, run.plan.run_id),
    )
    if base is None:
        return report
    return _Contrasted(database, run, base, queries, judgment_list, settings).fill(report)


def facts(run: Mapping[str, Any]) -> RunFacts:
    """What a row of `runs` says of cost and provenance."""
    named = {title: run.get(key) for title, key in _PROVENANCE}
    libraries = json.loads(run["libraries_json"])
    return RunFacts(
        run_id=run["run_id"],
        model=run["reranker_model"],
        query_set=run["query_set"],
        query_types=tuple(run["query_types"]),
        started_at=run["started_at"],
        finished_at=run["finished_at"],
        counts=run["counts"],
        seconds=run["seconds"],
        score_path=run["score_path"],
        provenance={k: str(v) for k, v in (named | libraries).items() if v is not None},
        config=json.dumps(json.loads(run["config_json"]), indent=2, ensure_ascii=False),
    )


def _other(run: Party, base: Party | None) -> RunFacts | None:
    if base is None or base.plan.run_id == run.plan.run_id:
        return None
    return facts(base.run)


def _contrast(run: Party, base: Party) -> Contrast:
    if base.plan.run_id == run.plan.run_id:
        return Contrast("first stage", "reranked", True)
    names = [p.name.removesuffix(f":{FIRST}") for p in (base, run)]
    names = [name if "(" in name else f"run {name}" for name in names]
    if base.stage == FIRST:
        names[0] = f"the first stage of {names[0]}"
    return Contrast(names[0], names[1], False)


def _differing(run: Party, base: Party | None) -> tuple[tuple[str, str, str], ...]:
    """(what, the base's, the run's) inputs that differ between two runs."""
    if base is None or base.plan.run_id == run.plan.run_id:
        return ()
    ours, theirs = run.inputs, base.inputs
    return tuple((k, str(theirs[k]), str(ours[k])) for k in ours if ours[k] != theirs[k])


@dataclass(frozen=True)
class _Contrasted:
    """Everything that needs both sides."""

    database: Database
    run: Party
    base: Party
    queries: pa.Table
    judgment_list: str | None
    settings: Settings

    def fill(self, report: Report) -> Report:
        """The report with the comparison, the agreement, the slices and the moved queries."""
        left, right = (self._rankings(p) for p in (self.base, self.run))
        shared = self._shared()
        both = [t for t in right if t in left]
        agreements = [(t, rankings_overlap(left[t], right[t], shared, k=RANKS)) for t in both]
        asked = self.settings.query_type
        sides = left.get(asked, {}), right.get(asked, {})
        report = replace(report, agreements=tuple(agreements))
        if self.judgment_list is None:
            return self._unjudged(report, *sides, shared)
        return self._judged(report, *sides)

    def _rankings(self, party: Party) -> dict[str, dict[str, list[str]]]:
        """{query_type: {query_id: documents in rank order}}."""
        table = pa.concat_tables(rankings(self.database, party.plan, party.stage))
        types = party.plan.search.query_types
        return {t: rankings_of(table.filter(pc.equal(table["query_type"], t))) for t in types}

    def _shared(self) -> list[str]:
        """The queries that both runs have in the same words."""
        mine, theirs = (
            frame(read_queries(self.database, p.plan.queries).select(["query_id", "text_hash"]))
            for p in (self.run, self.base)
        )
        both = mine.join(theirs, on=["query_id", "text_hash"], how="semi")
        return list(both["query_id"].to_list())

    def _judged(self, report: Report, left: _Ranking, right: _Ranking) -> Report:
        settings = replace(self.settings, moved=MOVED)
        compared = compare_runs(self.database, self.base, [self.run], self.judgment_list, settings)
        found = compared.comparisons[0]
        values = _primary_values(found)
        texts = self._query_texts()
        rows, left_out = slices(values, self.queries)
        return replace(
            report,
            comparison=found,
            per_query=tuple((texts.get(q, q), b - a) for q, (a, b) in values.items()),
            slices=rows,
            slices_left_out=left_out,
            moved=self._shown(found.moved, left, right),
            moved_in_all=sum(a != b for a, b in values.values()),
        )

    def _unjudged(
        self, report: Report, left: _Ranking, right: _Ranking, shared: list[str]
    ) -> Report:
        changed = most_changed(left, right, shared)
        moved = [
            MovedQuery(
                q, 0.0, 0.0, 0.0, moved_documents(left.get(q, ()), right.get(q, ()), {}, RANKS)
            )
            for q in changed[:MOVED]
        ]
        shown = [
            replace(q, base=None, candidate=None) for q in self._shown(tuple(moved), left, right)
        ]
        return replace(report, moved=tuple(shown), moved_in_all=len(changed))

    def _query_texts(self) -> dict[str, str]:
        columns = self.queries.select(["query_id", "text"]).to_pydict()
        texts = (words.clipped(t, TEXT) for t in columns["text"])
        return dict(zip(columns["query_id"], texts, strict=True))

    def _shown(
        self, moved: Sequence[MovedQuery], left: _Ranking, right: _Ranking
    ) -> tuple[ShownQuery, ...]:
        """The moved queries with the texts of queries and documents, down to RANKS."""
        wanted = sorted({d.doc_id for q in moved for d in q.documents})
        documents = texts_of(self.database, self.base.plan.corpus, wanted)
        documents |= texts_of(self.database, self.run.plan.corpus, wanted)
        texts = self._query_texts()
        tags = dict(
            zip(*self.queries.select(["query_id", "tags"]).to_pydict().values(), strict=True)
        )
        return tuple(
            ShownQuery(
                query_id=q.query_id,
                text=texts.get(q.query_id, q.query_id),
                tags=tuple(tags.get(q.query_id) or ()),
                base=q.base,
                candidate=q.candidate,
                rbo=rbo(left.get(q.query_id, ()), right.get(q.query_id, ())),
                documents=_shown_documents(q, documents),
            )
            for q in moved
        )


_Ranking = Mapping[str, Sequence[str]]


def _shown_documents(query: MovedQuery, texts: Mapping[str, str]) -> tuple[ShownDocument, ...]:
    return tuple(
        ShownDocument(
            doc_id=d.doc_id,
            text=words.clipped(texts.get(d.doc_id, ""), TEXT),
            grade=d.grade,
            base_rank=d.base_rank,
            candidate_rank=d.candidate_rank,
            reason=d.reason,
        )
        for d in query.documents
        if min(d.base_rank or RANKS + 1, d.candidate_rank or RANKS + 1) <= RANKS
    )


def _primary_values(found: Comparison) -> dict[str, tuple[float, float]]:
    row = found.primary
    rows = frame(found.per_query).filter(query_type=row.query_type, measure=row.measure)
    return {q: (a, b) for q, a, b in rows.select("query_id", "base", "candidate").iter_rows()}


def _distributions(
    database: Database, plan: Run, judged: pa.Table | None
) -> tuple[Distribution, ...]:
    if plan.reranker is None:
        return ()
    scored = ScoredRun(database, plan)
    columns = ["query_id", "doc_id", "score", "vector_rank", "fts_rank"]
    parts = [
        with_grades(frame(scored.chunk(chunk).select(columns)), judged).drop("query_id", "doc_id")
        for chunk in plan.chunks
    ]
    return distributions(pl.concat(parts), plan.search.query_types, judged=judged is not None)


def _history(
    database: Database, run: Mapping[str, Any], judgment_list: str | None, settings: Settings
) -> History | None:
    """The deciding measure over the pipeline's newest runs of the same query set."""
    if judgment_list is None:
        return None
    of_set = [r for r in done_runs(database, run["pipeline"]) if r.queries.name == run["query_set"]]
    measure = str(parse_measures([settings.primary])[0])
    rows = history(database, of_set[:_RUNS], judgment_list, measure)
    mine = [r for r in rows if r["query_type"] == settings.query_type]
    points = tuple(
        HistoryPoint(r["run_id"], r["started_at"], r["first"], r["reranked"], r["queries"])
        for r in mine
    )
    alike = len({r["judgments"] for r in mine}) <= 1
    return History(measure, settings.query_type, points, alike) if points else None


def _labels(database: Database, run_id: str) -> tuple[LabelEvidence, ...]:
    rows = [r for r in list_label_sets(database) if run_id in r["runs"] and r["current"]]
    return tuple(_evidence(database, row) for row in rows[:_LABEL_SETS])


def _evidence(database: Database, row: Mapping[str, Any]) -> LabelEvidence:
    labels = read_labels(database, row["label_set"]).column("label").to_pylist()
    known = sorted({v for v in labels if v is not None}, reverse=True)
    counts = {f"label {value}": labels.count(value) for value in known}
    counts["unsure"] = labels.count(None)
    return LabelEvidence(row["label_set"], words.rule(row["rule"]), counts, calibration_of(row))
