"""Runs: a run is its inputs. Planned from digests, found again, listed, marked as finished."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version as library_version
from typing import Any

import pyarrow as pa

from reranking import fingerprints
from reranking.corpus.corpus import Corpus, content_digest
from reranking.corpus.indexes import need_fts, vector_index
from reranking.corpus.queries import QuerySet
from reranking.errors import MissingResource
from reranking.runs.ranking import score_columns
from reranking.runs.search import SearchSettings
from reranking.schemas import RUNS
from reranking.scoring.crossencoder import CrossEncoderModel
from reranking.store import Database, equals

TABLE = "runs"
_LIBRARIES = ("lancedb", "pyarrow", "polars", "torch", "transformers", "sentence-transformers")


@dataclass(frozen=True)
class Plan:
    """A run that is decided on: everything the steps after it need to know, and no data.

    `reranker` is the fingerprint in hex, None for a run of the first stage only; `refiner` that of
    the same model in float32, where what is near or above a cut is scored again. `epoch` numbers
    what this run writes; what it reuses is of `least_epoch` or above.
    """

    database: str
    run_id: str
    search_id: str
    corpus: Corpus
    documents_content: str
    queries: QuerySet
    search: SearchSettings
    chunk_queries: int
    reranker: str | None
    return_score: str
    top_k: int | None
    activation: str
    epoch: int
    least_epoch: int
    finished: bool
    refiner: str | None = None

    @property
    def chunks(self) -> list[int]:
        """The chunks' numbers; each has `chunk_queries` queries of the set, by id."""
        return list(range(-(-self.queries.count // self.chunk_queries)))

    @property
    def results_table(self) -> str:
        """The name of the table that holds the run's results."""
        return results_name(self.run_id)

    @property
    def score_columns(self) -> list[str]:
        """The score columns of the results beside `_relevance_score`."""
        return score_columns(self.search.query_types, self.return_score)


def results_name(run_id: str) -> str:
    """The name of a run's results table."""
    return f"results_{run_id}"


def plan_run(
    database: Database,
    corpus: Corpus,
    queries: QuerySet,
    search: SearchSettings,
    *,
    encoder: str | None,
    reranker: CrossEncoderModel | None,
    return_score: str,
    top_k: int | None,
    chunk_queries: int,
    refiner: CrossEncoderModel | None = None,
    ranking: str | None = None,
    force: bool = False,
) -> Plan:
    """The run that these inputs name: finished already, begun, or new. Nothing is written.

    `ranking` names the content of a given ranking, which then stands for the search.
    """
    content, _ = content_digest(database, corpus, search.where)
    if ranking is None:
        search_inputs = _search_inputs(database, corpus, search, encoder)
    else:
        search_inputs = {"ranking": ranking, "legs": list(search.query_types)}
    search_inputs |= {
        "documents": content,
        "queries": queries.content,
        "chunk_queries": chunk_queries,
    }
    search_id = fingerprints.search_id(search_inputs)
    run_id = fingerprints.run_id(
        {
            "search_id": search_id,
            "reranker": None if reranker is None else reranker.fingerprint.hex(),
            "query_types": list(search.query_types),
            "return_score": return_score,
            "activation": None if reranker is None else reranker.activation,
            "top_k": top_k,
            **({} if refiner is None else {"refiner": refiner.fingerprint.hex()}),
        }
    )
    published = published_epoch(database, run_id)
    epoch = _forced_epoch(database, run_id, published) if force else 0
    return Plan(
        database=database.uri,
        run_id=run_id,
        search_id=search_id,
        corpus=corpus,
        documents_content=content,
        queries=queries,
        search=search,
        chunk_queries=chunk_queries,
        reranker=None if reranker is None else reranker.fingerprint.hex(),
        return_score=return_score,
        top_k=top_k,
        activation="identity" if reranker is None else reranker.activation,
        epoch=epoch,
        least_epoch=epoch if force else 0,
        finished=published is not None and not force,
        refiner=None if refiner is None else refiner.fingerprint.hex(),
    )


def _search_inputs(
    database: Database, corpus: Corpus, search: SearchSettings, encoder: str | None
) -> dict[str, Any]:
    table = database.need(corpus.table, corpus.version)
    inputs: dict[str, Any] = {
        "legs": sorted(search.legs),
        "limit": search.limit,
        "where": dict(search.where),
    }
    if "vector" in search.legs:
        inputs |= {
            "encoder": encoder,
            "metric": search.metric,
            "ann": vector_index(table, corpus.vector),
            "nprobes": search.nprobes,
            "refine_factor": search.refine_factor,
        }
    if "fts" in search.legs:
        inputs["fts"] = need_fts(table, corpus.table, corpus.text)
    return inputs


def published_epoch(database: Database, run_id: str) -> int | None:
    """The epoch of the run's published results, None where there are none.

    The results table is the only done-mark. Raises MissingResource where a table of that name is
    not this run's.
    """
    table = database.open(results_name(run_id))
    if table is None:
        return None
    marks = table.schema.metadata or {}
    if marks.get(b"rescore.run_id") != run_id.encode():
        raise MissingResource(
            f"table {results_name(run_id)!r} was made by somebody else: rename or drop it"
        )
    return int(marks[b"rescore.epoch"])


def _forced_epoch(database: Database, run_id: str, published: int | None) -> int:
    """The epoch that a forced run writes: an unfinished forced one goes on, else the next."""
    rows = database.read(TABLE, columns=["run_id", "epoch"]).to_pylist()
    mine = next((r["epoch"] for r in rows if r["run_id"] == run_id), 0)
    if mine > (published or 0):
        return int(mine)
    return 1 + max((int(r["epoch"]) for r in rows), default=0)


def start_run(database: Database, plan: Plan, description: Mapping[str, Any]) -> Plan:
    """Pin the run's inputs by tags and write its row; the plan with the versions that are pinned.

    A run that was begun before keeps its start and, while its tags stand, the versions it pinned:
    other versions of the same content would do as well, but only tagged ones are never pruned.
    """
    stored = stored_run(database, plan.run_id)
    if stored is not None and (kept := _still_pinned(database, plan, stored)) is not None:
        if int(stored["epoch"]) >= plan.epoch:
            return kept
        plan = kept
    tag = tag_of(plan.run_id)
    if plan.corpus.managed:
        database.tag(plan.corpus.table, tag, plan.corpus.version)
    database.tag("queries", tag, plan.queries.version)
    row = {
        "run_id": plan.run_id,
        "search_id": plan.search_id,
        "status": "running",
        "epoch": plan.epoch,
        "query_set": plan.queries.name,
        "query_types": list(plan.search.query_types),
        "queries_version": plan.queries.version,
        "queries_content": plan.queries.content,
        "documents_table": plan.corpus.table,
        "documents_version": plan.corpus.version,
        "documents_content": plan.documents_content,
        "reranker": plan.reranker,
        "refiner": plan.refiner,
        "libraries_json": json.dumps({name: library_version(name) for name in _LIBRARIES}),
        "plan_json": json.dumps(asdict(plan)),
        "counts_json": "{}",
        "seconds_json": "{}",
        "started_at": datetime.now(UTC) if stored is None else stored["started_at"],
        **description,
    }
    _write(database, row, update=stored is not None)
    return plan if stored is not None else start_run(database, plan, description)


def tag_of(run_id: str) -> str:
    """The tag on the versions of documents and queries that a run reads."""
    return f"run-{run_id}"


def _still_pinned(database: Database, plan: Plan, stored: Mapping[str, Any]) -> Plan | None:
    """The plan at the versions that the stored row names, None where no tag holds them.

    A table that was dropped and made again has lost its tags: its versions are other ones.
    """
    documents, queries = int(stored["documents_version"]), int(stored["queries_version"])
    tag = tag_of(plan.run_id)
    if database.tagged("queries", tag) != queries:
        return None
    if plan.corpus.managed:
        if database.tagged(plan.corpus.table, tag) != documents:
            return None
    elif documents != plan.corpus.version:
        return None
    return replace(
        plan,
        corpus=replace(plan.corpus, version=documents),
        queries=replace(plan.queries, version=queries),
    )


def finish_run(
    database: Database,
    plan: Plan,
    counts: Mapping[str, float],
    seconds: Mapping[str, float],
    score_path: str | None,
) -> None:
    """Mark the run as done, with its counts and times."""
    row = need_row(database, plan)
    row |= {
        "status": "done",
        "counts_json": json.dumps(dict(counts)),
        "seconds_json": json.dumps({k: round(v, 3) for k, v in seconds.items()}),
        "score_path": score_path or row["score_path"],
        "finished_at": datetime.now(UTC),
    }
    _write(database, row)


def _write(database: Database, row: Mapping[str, Any], *, update: bool = True) -> None:
    database.merge(TABLE, pa.Table.from_pylist([dict(row)], RUNS), RUNS, update=update)


def need_row(database: Database, plan: Plan) -> dict[str, Any]:
    """The run's row; raises MissingResource where somebody removed it while the run was at work."""
    row = stored_run(database, plan.run_id)
    if row is None:
        raise MissingResource(
            f"run {plan.run_id} has no row in `runs` any more: somebody forgot the run or dropped "
            "the table while it was at work; start the command again"
        )
    return row


def stored_run(database: Database, run_id: str) -> dict[str, Any] | None:
    """The run's row of the schema RUNS as it stands, None where there is none."""
    rows = database.read(TABLE, equals("run_id", run_id)).to_pylist()
    return rows[0] if rows else None


def list_runs(database: Database) -> list[dict[str, Any]]:
    """All runs, newest first, with their status as the tables say it.

    `done` where the results are published, `abandoned` where a later run of the same pipeline has
    begun (its inputs changed meanwhile), else `running`: at work, or waiting to be continued.
    """
    rows = database.read(TABLE).to_pylist()
    names = set(database.names())
    newest: dict[str, datetime] = {}
    for row in rows:
        newest[row["pipeline"]] = max(row["started_at"], newest.get(row["pipeline"], _EPOCH))
    for row in rows:
        row["counts"] = json.loads(row.pop("counts_json"))
        row["seconds"] = json.loads(row.pop("seconds_json"))
        if _is_published(database, row, names):
            row["status"] = "done"
        else:
            later = row["started_at"] < newest[row["pipeline"]]
            row["status"] = "abandoned" if later else "running"
    return sorted(rows, key=lambda r: r["started_at"], reverse=True)


def scoring_rate(database: Database, reranker: str) -> float | None:
    """Pairs per second of the newest run that scored with the reranker; None where none did."""
    columns = ["started_at", "counts_json", "seconds_json"]
    rows = database.read(TABLE, equals("reranker", reranker), columns).to_pylist()
    for row in sorted(rows, key=lambda r: r["started_at"], reverse=True):
        scored = json.loads(row["counts_json"]).get("scored", 0)
        seconds = json.loads(row["seconds_json"]).get("score", 0.0)
        if scored and seconds:
            return float(scored / seconds)
    return None


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _is_published(database: Database, row: Mapping[str, Any], names: set[str]) -> bool:
    """Whether the results are there; a name alone may be the folder of a killed publisher."""
    name = results_name(row["run_id"])
    return name in names and (row["status"] == "done" or database.open(name) is not None)


def find_run(database: Database, run: str) -> dict[str, Any]:
    """The run whose id is, or begins with, `run`; raises MissingResource where none or several."""
    rows = list_runs(database)
    found = [r for r in rows if r["run_id"].startswith(run)] if run else []
    if len(found) != 1:
        known = ", ".join(r["run_id"][:8] for r in rows[:10]) or "none"
        what = "no run" if not found else f"{len(found)} runs"
        raise MissingResource(f"{what} {run!r} in {database.uri} (newest: {known})")
    return found[0]


def plan_of(run: Mapping[str, Any]) -> Plan:
    """The plan of a run that `find_run` or `list_runs` returned."""
    values = json.loads(run["plan_json"])
    search = values["search"] | {"query_types": tuple(values["search"]["query_types"])}
    return Plan(
        **values
        | {
            "corpus": Corpus(**values["corpus"]),
            "queries": QuerySet(**values["queries"]),
            "search": SearchSettings(**search),
        }
    )
