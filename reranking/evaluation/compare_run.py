"""Stored runs as the sides of a comparison, and the comparison itself.

A side is named by a run's id (or its beginning) or by a promoted name, and `:first` behind it means
the run's own first stage: `production`, `4f2a91c0`, `4f2a91c0:first`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from reranking.corpus.corpus import columns_of, hashes_of, string_ids
from reranking.corpus.queries import read_queries
from reranking.errors import InputError, MissingResource
from reranking.evaluation.comparison import Comparison, Settings, compare
from reranking.evaluation.evaluate_run import rankings
from reranking.evaluation.sides import Side
from reranking.judgments.lists import choose_list, worded_grades
from reranking.runs.promotion import promoted_run
from reranking.runs.run import Run, find_run
from reranking.store import Database

FIRST: Final = "first"
_NO_GRADES = pa.schema(
    [("query_id", pa.string()), ("doc_id", pa.string()), ("relevance", pa.int32())]
)


@dataclass(frozen=True)
class Party:
    """A finished run at a stage, under the name that it was asked for by."""

    name: str
    run: Mapping[str, Any]
    plan: Run
    stage: str

    @property
    def inputs(self) -> dict[str, Any]:
        """What decided the results, in the words of the config; digests are cut to 8 digits."""
        run, plan = self.run, self.plan
        given = json.loads(run["config_json"]).get("candidates")
        reranker = None if self.stage == FIRST else _named(run["reranker_model"], run["reranker"])
        return {
            "documents": f"{plan.corpus.table} {plan.documents_content[:8]}",
            "queries": f"{plan.queries.name} {plan.queries.content[:8]}",
            "candidates": _source(given),
            "encoder": None if given or run["encoder"] is None else str(run["encoder"])[:8],
            "vector": None if given else plan.corpus.vector,
            "limit": plan.search.limit,
            "where": dict(plan.search.where) or None,
            "reranker": reranker,
            "column": plan.corpus.scored,
            "top_k": None if self.stage == FIRST else plan.top_k,
        }


def _source(candidates: Mapping[str, Any] | None) -> str:
    """Where the candidates come from: a search, or the file of a given ranking."""
    if candidates is None:
        return "search"
    source = candidates["source"]
    return f"ranking {source['name'] or str(source['path']).rsplit('/', 1)[-1]}"


def _named(model: str | None, fingerprint: str | None) -> str | None:
    return None if fingerprint is None else f"{model} {fingerprint[:8]}"


@dataclass(frozen=True)
class Compared:
    """Several candidates against one base. Without a judgment list only the agreement is told."""

    base: Party
    candidates: tuple[Party, ...]
    judgment_list: str | None
    judgments_fp: str | None
    comparisons: tuple[Comparison, ...]
    queries: pa.Table

    def sentence(self, place: int) -> str:
        """The verdict on candidate number `place`, for people."""
        found = self.comparisons[place]
        what = f"{found.candidate} against {found.base}"
        if self.judgment_list is None:
            return f"{what}: cannot tell, there are no judgments"
        primary = found.primary
        return f"{what}: {found.verdict}; {primary.measure} ({primary.query_type}) {found.reason}"

    def differing(self, place: int) -> dict[str, tuple[Any, Any]]:
        """The inputs that differ between the base and candidate number `place`."""
        ours, theirs = self.base.inputs, self.candidates[place].inputs
        return {k: (ours[k], theirs[k]) for k in ours if ours[k] != theirs[k]}

    def to_dict(self) -> dict[str, Any]:
        """Everything but the per-query values as JSON-like values."""
        texts = dict(
            zip(*self.queries.select(["query_id", "text"]).to_pydict().values(), strict=True)
        )
        told = []
        for place, (party, found) in enumerate(zip(self.candidates, self.comparisons, strict=True)):
            said = found.to_dict()
            for moved in said["moved"]:
                moved["text"] = texts.get(moved["query_id"])
            told.append(
                {
                    "sentence": self.sentence(place),
                    "run_id": party.plan.run_id,
                    "stage": party.stage,
                    "differing": {k: list(v) for k, v in self.differing(place).items()},
                    **said,
                }
            )
        return {
            "base": {
                "name": self.base.name,
                "run_id": self.base.plan.run_id,
                "stage": self.base.stage,
            },
            "judgment_list": self.judgment_list,
            "judgments": self.judgments_fp,
            "comparisons": told,
        }


def party(database: Database, reference: str) -> Party:
    """The finished run that `reference` names; raises MissingResource where there is none."""
    name, _, stage = (
        reference.rpartition(":") if reference.endswith(":first") else (reference, "", "")
    )
    found = find_run(database, promoted_run(database, name) or name)
    run = found.stored
    if run["status"] != "done":
        raise MissingResource(
            f"run {run['run_id'][:8]} is {run['status']}, not done: only finished runs compare. "
            "Start its `rescore run` again."
        )
    run_id = run["run_id"]
    short = name if run_id.startswith(name) else f"{name} ({run_id[:8]})"
    if run_id == name:
        short = run_id[:8]
    shown = f"{short}:{FIRST}" if stage else short
    return Party(shown, run, found, FIRST if stage else "reranked")


def compare_runs(
    database: Database,
    base: Party,
    candidates: Sequence[Party],
    judgment_list: str | None,
    settings: Settings,
    *,
    strict: bool = False,
) -> Compared:
    """The comparison of stored runs on a judgment list; None: no judgments.

    With `strict`, raises InputError where the runs' documents or queries differ at all, or where
    judged queries had to be left out.
    """
    queries = read_queries(database, base.plan.queries)
    judged, fingerprint = _NO_GRADES.empty_table(), None
    if judgment_list is not None:
        judged, fingerprint = worded_grades(database, judgment_list, queries)
    if strict:
        for other in candidates:
            _refuse_drift(base, other)
    doc_ids = pc.unique(judged["doc_id"]).to_pylist()
    sides = _Sides(database, doc_ids)
    found = compare(
        sides.of(base), [sides.of(c) for c in candidates], judged, settings, strict=strict
    )
    kept = [n for n in ("query_id", "text", "tags") if n in queries.column_names]
    return Compared(
        base, tuple(candidates), judgment_list, fingerprint, tuple(found), queries.select(kept)
    )


def _refuse_drift(base: Party, other: Party) -> None:
    for name in ("documents", "queries"):
        ours, theirs = base.inputs[name], other.inputs[name]
        if ours != theirs:
            raise InputError(
                f"{base.name} and {other.name} did not see the same {name}: {ours} and {theirs}. "
                "Compare without --strict to leave out what differs, or run both on the same."
            )


class _Sides:
    """Reads each run's inputs once, however many stages of it take part."""

    def __init__(self, database: Database, doc_ids: list[str]) -> None:
        self.database, self.doc_ids = database, doc_ids
        self._documents: dict[tuple[str, int], pa.Table] = {}

    def of(self, party: Party) -> Side:
        ranked = pa.concat_tables(rankings(self.database, party.plan, party.stage))
        queries = read_queries(self.database, party.plan.queries)
        return Side(
            name=party.name,
            rankings=ranked.select(["query_id", "query_type", "doc_id", "rank"]),
            queries=queries.select(["query_id", "text_hash"]),
            documents=self._known_documents(party.plan),
        )

    def _known_documents(self, plan: Run) -> pa.Table:
        """(doc_id, text_hash) of the judged documents in the run's corpus."""
        corpus = plan.corpus
        key = (corpus.table, corpus.version)
        if key not in self._documents:
            stored = "text_hash" if corpus.managed else None
            texts = replace(corpus, scored=corpus.text, hash_column=stored)
            column = stored or corpus.text
            ids: list[str] = []
            hashes: list[bytes] = []
            for batch in columns_of(self.database, texts, self.doc_ids, [column]):
                ids += string_ids(batch.column(corpus.id), texts)
                hashes += hashes_of(batch.column(column), texts)
            self._documents[key] = pa.table(
                {"doc_id": pa.array(ids, pa.string()), "text_hash": pa.array(hashes, pa.binary(16))}
            )
        return self._documents[key]


def judgments_for(database: Database, asked: str | None, runs: Sequence[Party]) -> str | None:
    """The judgment list to compare on: as asked, else the runs' own, else the only one for them.

    None where the database has none for their query set; raises ConfigError where it cannot choose.
    """
    named = [
        (json.loads(run.run["config_json"]).get("judgments") or {}).get("judgment_list")
        for run in reversed(runs)
    ]
    return choose_list(database, runs[0].plan.queries.name, asked, named)


def deciding_query_type(asked: str | None, runs: Sequence[Party]) -> str:
    """The query type that decides: as asked, else hybrid, else the first that all runs have."""
    common = [t for t in runs[0].plan.search.query_types if _all_have(t, runs)]
    if not common:
        raise InputError(
            "the runs have no query type in common: "
            + "; ".join(f"{r.name} has {', '.join(r.plan.search.query_types)}" for r in runs)
        )
    return asked or ("hybrid" if "hybrid" in common else common[0])


def _all_have(query_type: str, runs: Sequence[Party]) -> bool:
    return all(query_type in run.plan.search.query_types for run in runs)
