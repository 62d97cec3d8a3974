"""From a database to the content of a report: only tables are read, no model is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from reranking.arrow import frame
from reranking.corpus.corpus import texts_of
from reranking.evaluation.comparison import MOVED
from reranking.evaluation.measures import parse_measures
from reranking.evaluation.moves import MovedQuery, moved_documents
from reranking.evaluation.overlap import rankings_of, rankings_overlap, rbo
from reranking.evaluation.run_comparison import Comparisons
from reranking.evaluation.run_measures import history
from reranking.evaluation.sides import FIRST, Side
from reranking.evaluation.unknown import unknown_to
from reranking.judgments.lists import grades
from reranking.labelling.label_sets import list_label_sets, read_labels
from reranking.labelling.run_labels import calibration_of
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
    SetResult,
    ShownDocument,
    ShownQuery,
)
from reranking.report.figures import distributions, most_changed, slice_rows, with_grades
from reranking.runs.listing import done_runs
from reranking.runs.recall import recall_of
from reranking.runs.run import Run
from reranking.runs.settings import pipeline_of_row
from reranking.store import Database

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


def collect(comparisons: Comparisons, base: Side | None) -> Report:
    """Return the content of the report on a run against `base`, which may be its own first stage.

    `base` is None for a run without a reranker that is compared with nothing. Raises
    MissingResource if the judgment list does not exist.
    """
    side = comparisons.side
    run, database = side.run, side.run.database
    judgment_list = comparisons.judgment_list(base)
    judged = None
    if judgment_list is not None:
        ignore = comparisons.ignore_identical_ids
        judged = grades(database, judgment_list, run.query_rows, ignore).table
    report = Report(
        made_at=datetime.now(UTC),
        version=version("rescore"),
        run=facts(run),
        against=None if base is None or base.run.run_id == run.run_id else facts(base.run),
        contrast=None if base is None else _contrast(side, base),
        differing=_differing(side, base),
        judgment_list=judgment_list,
        unknown=None if judgment_list is None else unknown_to(run, judgment_list),
        judged_pairs=0 if judged is None else judged.num_rows,
        rules=comparisons.settings,
        comparison=None,
        agreements=(),
        per_query=(),
        slices=(),
        slices_left_out=0,
        moved=(),
        moved_in_all=0,
        shown_ranks=RANKS,
        distributions=_distributions(run, judged),
        history=_history(comparisons, base),
        labels=_labels(database, run.run_id),
    )
    if base is None:
        return report
    report = replace(report, sets=tuple(_set_results(comparisons, base)))
    return _Contrasted(comparisons, base).fill(report)


def _set_results(comparisons: Comparisons, base: Side) -> Iterator[SetResult]:
    """The comparison on each query set, those without judgments too."""
    for name, own in comparisons.sets.items():
        compared = own.against(base)
        judged = compared.judgment_list is not None
        made = compared.comparisons[0]
        yield SetResult(
            name=name,
            queries=own.side.run.query_rows.num_rows,
            judgment_list=compared.judgment_list,
            sentence=made.reason if judged else "nothing is judged",
            comparison=made if judged else None,
        )


def facts(run: Run) -> RunFacts:
    """Return what the run's row says of cost and provenance."""
    row: Mapping[str, Any] = run.stored
    named = {title: row.get(key) for title, key in _PROVENANCE}
    named["recall of the vector index"] = recall_of(run.database, run.search_id)
    libraries = json.loads(row["libraries_json"])
    return RunFacts(
        run_id=row["run_id"],
        model=row["reranker_model"],
        query_set=row["query_set"],
        query_types=tuple(row["query_types"]),
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        counts=row["counts"],
        seconds=row["seconds"],
        score_path=row["score_path"],
        provenance={k: str(v) for k, v in (named | libraries).items() if v is not None},
        config=json.dumps(json.loads(row["config_json"]), indent=2, ensure_ascii=False),
    )


def _contrast(run: Side, base: Side) -> Contrast:
    if base.run.run_id == run.run.run_id:
        return Contrast("first stage", "reranked", True)
    names = [p.name.removesuffix(f":{FIRST}") for p in (base, run)]
    names = [name if "(" in name else f"run {name}" for name in names]
    if base.stage == FIRST:
        names[0] = f"the first stage of {names[0]}"
    return Contrast(names[0], names[1], False)


def _differing(side: Side, base: Side | None) -> tuple[tuple[str, str, str], ...]:
    """(what, the base's, the run's) inputs that differ between two runs."""
    if base is None or base.run.run_id == side.run.run_id:
        return ()
    own, other = side.inputs, base.inputs
    return tuple((k, str(other[k]), str(own[k])) for k in own if own[k] != other[k])


@dataclass(frozen=True)
class _Contrasted:
    """Everything that needs both sides."""

    comparisons: Comparisons
    base: Side

    @property
    def run(self) -> Run:
        """The run that the report is on."""
        return self.comparisons.side.run

    def fill(self, report: Report) -> Report:
        """Return the report with comparison, agreement, slices and moved queries."""
        left, right = (_rankings(side) for side in (self.base, self.comparisons.side))
        shared = self._shared()
        both = [t for t in right if t in left]
        agreements = [(t, rankings_overlap(left[t], right[t], shared, k=RANKS)) for t in both]
        decides = self.comparisons.query_type(self.base)
        sides = left.get(decides, {}), right.get(decides, {})
        report = replace(report, agreements=tuple(agreements))
        if report.judgment_list is None:
            return self._unjudged(report, *sides, shared)
        return self._judged(report, *sides)

    def _shared(self) -> list[str]:
        """The queries that both runs have in the same words."""
        own, other = (
            frame(run.query_rows.select(["query_id", "text_hash"]))
            for run in (self.run, self.base.run)
        )
        both = own.join(other, on=["query_id", "text_hash"], how="semi")
        return list(both["query_id"].to_list())

    def _judged(self, report: Report, left: _Ranking, right: _Ranking) -> Report:
        comparison = self.comparisons.against(self.base).comparisons[0]
        values = comparison.primary_values
        texts = self._query_texts()
        rows, left_out = slice_rows(values, self.run.query_rows)
        return replace(
            report,
            comparison=comparison,
            per_query=tuple((texts.get(q, q), b - a) for q, (a, b) in values.items()),
            slices=rows,
            slices_left_out=left_out,
            moved=self._shown(comparison.moved, left, right),
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
        columns = self.run.query_rows.select(["query_id", "text"]).to_pydict()
        texts = (words.clipped(t, TEXT) for t in columns["text"])
        return dict(zip(columns["query_id"], texts, strict=True))

    def _shown(
        self, moved: Sequence[MovedQuery], left: _Ranking, right: _Ranking
    ) -> tuple[ShownQuery, ...]:
        """The moved queries with the texts of queries and documents, down to RANKS."""
        wanted = sorted({d.doc_id for q in moved for d in q.documents})
        documents = texts_of(self.run.database, self.base.run.corpus, wanted)
        documents |= texts_of(self.run.database, self.run.corpus, wanted)
        texts = self._query_texts()
        tags = dict(
            zip(*self.run.query_rows.select(["query_id", "tags"]).to_pydict().values(), strict=True)
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


def _rankings(side: Side) -> dict[str, dict[str, list[str]]]:
    """{query_type: {query_id: documents in rank order}}."""
    table, types = side.rankings, side.run.search.query_types
    return {t: rankings_of(table.filter(pc.equal(table["query_type"], t))) for t in types}


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


def _distributions(run: Run, judged: pa.Table | None) -> tuple[Distribution, ...]:
    if run.reranker is None:
        return ()
    scored = ScoredRun(run)
    columns = ["query_id", "doc_id", "score", "vector_rank", "fts_rank"]
    parts = [
        with_grades(frame(scored.chunk(chunk).select(columns)), judged).drop("query_id", "doc_id")
        for chunk in run.chunks
    ]
    return distributions(pl.concat(parts), run.search.query_types, judged=judged is not None)


def _history(comparisons: Comparisons, base: Side | None) -> History | None:
    """The deciding measure over the pipeline's newest runs of the same query set."""
    judgment_list = comparisons.judgment_list(base)
    if judgment_list is None:
        return None
    run = comparisons.side.run
    done = done_runs(run.database, pipeline_of_row(run.stored))
    of_set = [r for r in done if r.queries.name == run.queries.name]
    measure = str(parse_measures([comparisons.settings.primary])[0])
    decides = comparisons.query_type(base)
    rows = history(
        of_set[:_RUNS],
        judgment_list,
        measure,
        ignore_identical_ids=comparisons.ignore_identical_ids,
        together=True,
    )
    deciding = [r for r in rows if r["query_type"] == decides]
    points = tuple(
        HistoryPoint(
            r["run_id"],
            r["started_at"],
            r["first"],
            r["reranked"],
            r["queries"],
            tuple(r["changed"]),
        )
        for r in deciding
    )
    alike = len({r["judgments"] for r in deciding}) <= 1
    return History(measure, decides, points, alike) if points else None


def _labels(database: Database, run_id: str) -> tuple[LabelEvidence, ...]:
    rows = [r for r in list_label_sets(database) if run_id in r["runs"] and r["current"]]
    return tuple(_evidence(database, row) for row in rows[:_LABEL_SETS])


def _evidence(database: Database, row: Mapping[str, Any]) -> LabelEvidence:
    labels = read_labels(database, row["label_set"]).column("label").to_pylist()
    known = sorted({v for v in labels if v is not None}, reverse=True)
    counts = {f"label {value}": labels.count(value) for value in known}
    counts["unsure"] = labels.count(None)
    return LabelEvidence(row["label_set"], words.rule(row["rule"]), counts, calibration_of(row))
