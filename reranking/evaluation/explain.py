"""Why a document is where it is for a query, and what moved it between two runs.

Everything is read from stored tables. Only a document that is not among the candidates makes a
search necessary, which the answer then says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from configs.part import LEGS
from reranking.errors import InputError
from reranking.evaluation.absent import why_absent
from reranking.evaluation.placements import Placement, QueryPlacements, placements
from reranking.evaluation.sides import Side, deciding_query_type, judgments_of
from reranking.judgments.lists import grades
from reranking.notebook import html_table
from reranking.runs.run import Run

TOP: Final = 10  # documents of each ranking that are told of where none is named
COLUMNS: Final = (
    "rank",
    "doc_id",
    "grade",
    "logit",
    "score",
    "first stage",
    "vector",
    "_distance",
    "fts",
    "_score",
    "why",
)


@dataclass(frozen=True)
class ExplainedDocument:
    """One document: where the run has it and, if there is one, where the other run has it.

    `here` is None if it is not among the run's candidates, `grade` if nobody judged it.
    """

    doc_id: str
    grade: int | None
    here: Placement | None
    there: Placement | None
    reason: str


@dataclass(frozen=True)
class Explanation:
    """One query of a run, document by document; beside another run if `against` is its id.

    `lost` are judged relevant documents that the other run's ranking has and this one's lacks.
    """

    run_id: str
    against: str | None
    query_id: str
    query_type: str
    text: str
    judgment_list: str | None
    candidates: int
    cut: int
    documents: tuple[ExplainedDocument, ...]
    lost: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """The query, the run and how much of it is shown."""
        versus = "" if self.against is None else f" against {self.against[:8]}"
        return (
            f"Query {self.query_id} ({self.query_type}) in run {self.run_id[:8]}{versus}: "
            f"{self.text}"
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of `rows`; ranks of the other run are told as `before`."""
        return COLUMNS if self.against is None else ("before", *COLUMNS)

    @property
    def rows(self) -> list[tuple[object, ...]]:
        """The documents as rows of a table."""
        return [self._row(d) for d in self.documents]

    def _row(self, document: ExplainedDocument) -> tuple[object, ...]:
        p = document.here
        stages: tuple[object, ...] = (None,) * 7
        if p is not None:
            ranks = p.first_rank, p.vector_rank, p.distance, p.fts_rank, p.bm25
            stages = (p.logit, p.score, *ranks)
        row = (p and p.rank, document.doc_id, document.grade, *stages, document.reason)
        if self.against is None:
            return row
        return (document.there and document.there.rank, *row)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-like values."""
        documents = [
            {
                "doc_id": d.doc_id,
                "grade": d.grade,
                "here": _values(d.here),
                "there": _values(d.there),
                "reason": d.reason,
            }
            for d in self.documents
        ]
        lists = {"lost": list(self.lost), "notes": list(self.notes)}
        return {**vars(self), **lists, "documents": documents}

    def __str__(self) -> str:
        shown = [self.title, *self.notes]
        for document in self.documents:
            rank = "-" if document.here is None else document.here.rank or "-"
            shown.append(f"{rank:>4}  {document.doc_id}: {document.reason}")
        return "\n".join(shown)

    def _repr_html_(self) -> str:
        return html_table(self.title, self.columns, self.rows)


def _values(place: Placement | None) -> dict[str, Any] | None:
    if place is None:
        return None
    return {k: v for k, v in asdict(place).items() if k not in ("doc_id", "doc_hash")}


def explain(
    run: Run,
    query_id: str,
    doc_id: str | None = None,
    against: Run | None = None,
    *,
    query_type: str | None = None,
    judgment_list: str | None = None,
) -> Explanation:
    """Say where documents are for a query and why; without `doc_id` the top ones of each run.

    With `against`, what moved each document from there to here. Raises MissingResource for an
    unknown query, InputError for a query type that a run lacks.
    """
    if against is not None:
        refuse_unequal([run, against])
    sides = [Side(r, "reranked", r.run_id[:8]) for r in (run, against) if r is not None]
    asked = deciding_query_type(query_type, sides)
    here = placements(run, query_id, asked)
    there = None if against is None else placements(against, query_id, asked)
    chosen = judgments_of(sides, judgment_list)
    graded = {} if chosen is None else _grades(here, chosen)
    lost = () if there is None else _lost(here, there, graded)
    ids = [doc_id] if doc_id is not None else _shown(here, there, lost)
    return Explanation(
        run_id=run.run_id,
        against=None if against is None else against.run_id,
        query_id=query_id,
        query_type=asked,
        text=here.text,
        judgment_list=chosen,
        candidates=len(here.documents),
        cut=here.cut,
        documents=tuple(
            ExplainedDocument(
                i,
                graded.get(i),
                here.documents.get(i),
                None if there is None else there.documents.get(i),
                _reason(here, there, i),
            )
            for i in ids
        ),
        lost=lost,
        notes=tuple(_notes(here, there, lost)),
    )


def _grades(query: QueryPlacements, judgment_list: str) -> dict[str, int]:
    table = grades(query.run.database, judgment_list, query.run.query_rows).table
    rows = table.to_pylist()
    return {r["doc_id"]: r["relevance"] for r in rows if r["query_id"] == query.query_id}


def _top(query: QueryPlacements, depth: int) -> list[str]:
    ranked = [p for p in query.documents.values() if p.rank is not None and p.rank <= depth]
    return [p.doc_id for p in sorted(ranked, key=lambda p: p.rank or 0)]


def _lost(
    here: QueryPlacements, there: QueryPlacements, graded: Mapping[str, int]
) -> tuple[str, ...]:
    kept = set(_top(here, here.cut))
    return tuple(d for d in _top(there, there.cut) if graded.get(d, 0) > 0 and d not in kept)


def _shown(here: QueryPlacements, there: QueryPlacements | None, lost: Iterable[str]) -> list[str]:
    others = [] if there is None else _top(there, TOP)
    return list(dict.fromkeys([*_top(here, TOP), *others, *lost]))


def _notes(
    here: QueryPlacements, there: QueryPlacements | None, lost: tuple[str, ...]
) -> Iterable[str]:
    yield f"{len(here.documents)} candidates; the ranking keeps {here.cut}"
    if not here.documents:
        yield "no leg found anything for this query"
    if here.run.status != "done":
        yield f"the run is {here.run.status}: nothing is published, ranks are those so far"
    if there is None:
        return
    if there.text != here.text:
        yield f"the query was reworded: {there.text!r} there"
    model = [q.run.stored["reranker_model"] or "none" for q in (there, here)]
    if there.run.reranker != here.run.reranker:
        yield f"another reranker: {model[0]} there, {model[1]} here"
    if there.run.search_id != here.run.search_id:
        yield "another search: documents, encoder, legs, limit or filter differ"
    yield f"judged relevant and lost: {', '.join(lost) or 'none'}"


def _reason(here: QueryPlacements, there: QueryPlacements | None, doc_id: str) -> str:
    place = here.documents.get(doc_id)
    if there is None:
        return why_absent(here, doc_id) if place is None else _why_here(here, place)
    before = there.documents.get(doc_id)
    if place is None:
        absent = why_absent(here, doc_id)
        return absent if before is None else f"lost: {absent}"
    if before is None:
        return f"new: not among the candidates of {there.run.run_id[:8]}; " + _why_here(here, place)
    return _what_moved(here, there, place, before)


def _why_here(query: QueryPlacements, place: Placement) -> str:
    """Say in words which stage put the document where it is."""
    legs = [
        f"{leg} {getattr(place, f'{leg}_rank')}"
        if getattr(place, f"{leg}_rank") is not None
        else f"not in {leg}'s first {query.run.search.limit}"
        for leg in LEGS[query.query_type]
    ]
    words = ", ".join(legs)
    if len(legs) > 1 or query.run.reranker is None:
        words += f", first stage {place.first_rank}"
    if query.run.reranker is not None:
        what = "the reranker" if query.run.blend is None else "the reranker's blend"
        words += f", {_gain(place.first_rank, place.full_rank, what)}"
    if place.rank is None:
        words += f"; cut: it is at {place.full_rank} and {query.cut} are kept"
    return words


def _gain(before: int, after: int, what: str) -> str:
    if before == after:
        return f"{what} leaves it at {after}"
    return f"{what} {'lifts' if after < before else 'drops'} it from {before} to {after}"


def _what_moved(
    here: QueryPlacements, there: QueryPlacements, place: Placement, before: Placement
) -> str:
    """Say which leg or model moved the document between the runs."""
    causes = []
    if place.doc_hash != before.doc_hash:
        causes.append("its text changed")
    for leg in LEGS[here.query_type]:
        was, now = getattr(before, f"{leg}_rank"), getattr(place, f"{leg}_rank")
        if was != now:
            causes.append(f"the {leg} leg has it at {now or 'none'}, not {was or 'none'}")
    if here.run.reranker != there.run.reranker:
        was, now = _by_model(before), _by_model(place)
        if was != now:
            causes.append(f"the model moves it by {now:+d} ranks, there by {was:+d}")
    elif here.run.reranker and place.logit != before.logit and place.doc_hash == before.doc_hash:
        causes.append(f"its logit is {place.logit}, not {before.logit}")
    if place.full_rank == before.full_rank:
        words = f"same rank {place.full_rank}"
    else:
        words = f"{before.full_rank} -> {place.full_rank}"
        if not causes:
            causes.append("other candidates came, went or moved")
    if (place.rank is None) != (before.rank is None):
        words += f", {'cut here' if place.rank is None else 'cut there'} ({here.cut} are kept)"
    return f"{words}: {'; '.join(causes)}" if causes else words


def _by_model(place: Placement) -> int:
    return place.first_rank - place.full_rank


def refuse_unequal(runs: Iterable[Run]) -> None:
    """Raise InputError unless the runs answer the same query set."""
    names = {run.queries.name for run in runs}
    if len(names) > 1:
        raise InputError(
            f"the runs answer other query sets ({', '.join(sorted(names))}): only runs of one set "
            "can be laid side by side; `rescore runs` lists them"
        )
