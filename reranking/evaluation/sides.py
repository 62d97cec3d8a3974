"""The sides of a comparison: stored runs at a stage.

A side is named by a run's id (or its beginning) or by a promoted name, and `:first` behind it means
the run's own first stage: `production`, `4f2a91c0`, `4f2a91c0:first`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

import pyarrow as pa

from reranking.errors import InputError, MissingResource, nearest
from reranking.evaluation.run_measures import rankings
from reranking.judgments.lists import choose_list
from reranking.runs.listing import find_run
from reranking.runs.promotion import promoted_names, promoted_run
from reranking.runs.rows import RunRow
from reranking.runs.run import Run
from reranking.store import Database

FIRST: Final = "first"
Stage = Literal["first", "reranked"]


@dataclass(frozen=True)
class Side:
    """Half of a comparison: a finished run at a stage, under the name that it was asked for by."""

    run: Run
    stage: Stage
    name: str

    @cached_property
    def rankings(self) -> pa.Table:
        """The rankings: query_id, query_type, doc_id, rank; read once."""
        ranked = pa.concat_tables(rankings(self.run, self.stage))
        return ranked.select(["query_id", "query_type", "doc_id", "rank"])

    def of_set(self, query_set: str) -> Side:
        """Return the side as it is for the queries of one query set alone."""
        made = Side(self.run.of_set(query_set), self.stage, self.name)
        vars(made)["rankings"] = made.run.only_own(self.rankings)  # which are read once
        return made

    @property
    def inputs(self) -> dict[str, Any]:
        """What decided the results, in the words of the config; digests are cut to 8 digits."""
        run, row = self.run, self.run.stored
        given = self._configured("candidates")
        return {
            "documents": f"{run.corpus.table} {run.documents_content[:8]}",
            "queries": f"{run.queries.name} {run.queries.content[:8]}",
            "candidates": _source(given),
            "encoder": None if given or row["encoder"] is None else row["encoder"][:8],
            "vector": None if given or run.corpus.managed else run.corpus.vector,
            "limit": run.search.limit,
            "where": dict(run.search.where) or None,
            "reranker": None if self.stage == FIRST else _named(row),
            "column": run.corpus.scored,
            "top_k": None if self.stage == FIRST else run.top_k,
            "fusion": run.search.fusion and run.search.fusion.named or None,
            "blend": None if self.stage == FIRST or run.blend is None else run.blend.named,
        }

    @property
    def judgment_list(self) -> str | None:
        """The name of the judgment list in the run's own config, if it has one."""
        own = self._sets.get(self.run.part, {}).get("judgments")
        return (own or self._configured("judgments") or {}).get("judgment_list")

    @property
    def has_sets(self) -> bool:
        """Whether the run is of several query sets, or of one of those."""
        return bool(self._sets)

    @property
    def _sets(self) -> Mapping[str | None, Mapping[str, Any]]:
        """The query sets of the run's own config: with a list of their own, or the config's."""
        return (self._configured("queries") or {}).get("sets") or {}

    def _configured(self, part: str) -> Any:  # noqa: ANN401
        """A part of the run's own config, as it was written, by whatever version."""
        return json.loads(self.run.stored["config_json"]).get(part)


def _source(candidates: Mapping[str, Any] | None) -> str:
    """Where the candidates come from: a search, or the file of a given ranking."""
    if candidates is None:
        return "search"
    source = candidates["source"]
    return f"ranking {source['name'] or str(source['path']).rsplit('/', 1)[-1]}"


def _named(row: RunRow) -> str | None:
    fingerprint = row["reranker"]
    return None if fingerprint is None else f"{row['reranker_model']} {fingerprint[:8]}"


def find_side(database: Database, reference: str) -> Side:
    """Return the side that `reference` names.

    Raises MissingResource if there is no such run, or if it is not finished.
    """
    name = reference.removesuffix(f":{FIRST}")
    stage: Stage = "reranked" if name == reference else "first"
    try:
        run = find_run(database, promoted_run(database, name) or name)
    except MissingResource as error:
        names = sorted({one for given in promoted_names(database).values() for one in given})
        raise MissingResource(f"{error}{nearest(name, names)}") from None
    if run.status != "done":
        raise MissingResource(
            f"run {run.run_id[:8]} is {run.status}, not done: only finished runs compare. "
            "Start its `rescore run` again."
        )
    return _side(run, name, stage)


def _side(run: Run, name: str, stage: Stage = "reranked") -> Side:
    """The side by the name that was given, with the run's short id if that says something new."""
    short = run.run_id[:8]
    if run.run_id != name:
        short = name if run.run_id.startswith(name) else f"{name} ({short})"
    return Side(run, stage, f"{short}:{FIRST}" if stage == FIRST else short)


def own_first_stage(run: Run) -> Side:
    """Return the first stage of the run itself, what reranking is compared with."""
    return _side(run, run.run_id, "first")


def promoted_side(database: Database, name: str) -> Side | None:
    """Return the run that is promoted as `name`; None if no run is."""
    run_id = promoted_run(database, name) if name != FIRST else None
    return None if run_id is None else find_side(database, name)


def deciding_query_type(asked: str | None, sides: Sequence[Side]) -> str:
    """Return the query type that decides: as asked, else hybrid, else the first that all have.

    Raises InputError if the runs have none in common.
    """
    types = [side.run.search.query_types for side in sides]
    shared = [t for t in types[0] if all(t in others for others in types)]
    if not shared:
        raise InputError(
            "the runs have no query type in common: "
            + "; ".join(
                f"{side.name} has {', '.join(side.run.search.query_types)}" for side in sides
            )
        )
    return asked or ("hybrid" if "hybrid" in shared else shared[0])


def judgments_of(sides: Sequence[Side], asked: str | None) -> str | None:
    """Return the judgment list to compare on: as asked, else the runs' own, else the only one.

    Returns None if none is stored for their query set, or if they are of several query sets and
    have lists for single ones alone; raises ConfigError if it cannot choose.
    """
    run = sides[0].run
    own = [side.judgment_list for side in reversed(sides)]
    if asked is None and sides[-1].has_sets and not any(own):
        return None
    return choose_list(run.database, run.queries.name, asked, own)
