"""A run is one object: its database, its inputs and their digests, its row in the table `runs`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from configs.blending import Blend
from configs.schema import Config, Search
from reranking.corpus.corpus import Corpus
from reranking.corpus.joined import still_stored, stored_set
from reranking.corpus.queries import QuerySet, read_queries
from reranking.errors import ConfigError, MissingResource
from reranking.notebook import html_table
from reranking.runs.ranking import score_columns
from reranking.runs.rows import RunRow, stored_row
from reranking.store import Database

if TYPE_CHECKING:
    from reranking.evaluation.comparison import Comparison
    from reranking.evaluation.explain import Explanation
    from reranking.evaluation.run_diff import RunDiff
    from reranking.evaluation.sweep.run_sweep import Sweep
    from reranking.runs.candidates import StoredCandidates


@dataclass(frozen=True)
class Run:
    """A run: everything the steps after its planning need to know, and no data.

    `reranker` is the fingerprint in hex, None for a run of the first stage only; `refiner` that of
    the same model in float32, where what is near or above a cut is scored again. `epoch` numbers
    what this run writes; what it reuses is of `least_epoch` or above. `row` is its row in the table
    `runs`, None for a run that is only planned; `last_sign` when a command that has begun it and
    has not ended was last seen at work, None if there is none but this one. With `part`, the name
    of a query set, it is a finished run as it is for that set's queries alone: see `of_set`.
    """

    database: Database = field(compare=False, repr=False)
    run_id: str
    search_id: str
    corpus: Corpus
    documents_content: str
    queries: QuerySet
    search: Search
    reranker: str | None
    return_score: str
    top_k: int | None
    activation: str
    epoch: int
    least_epoch: int
    finished: bool
    refiner: str | None = None
    blend: Blend | None = None
    row: RunRow | None = field(default=None, compare=False, repr=False)
    last_sign: datetime | None = field(default=None, compare=False, repr=False)
    part: str | None = None

    @classmethod
    def of_row(cls, database: Database, row: RunRow) -> Run:
        """Return the run that a stored row describes; raises MissingResource if it cannot be read.

        Plans of earlier versions have the same keys: new ones have defaults.
        """
        try:
            values = json.loads(row["plan_json"])
            search = values["search"] | {"chunk_queries": values["chunk_queries"]}
            return cls(
                database=database,
                corpus=Corpus(**values["corpus"]),
                queries=QuerySet(**values["queries"]),
                row=row,
                search=Search(**search),
                blend=Blend(**values["blend"]) if values.get("blend") else None,
                **{k: values[k] for k in _PLAIN if k in values},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise MissingResource(
                f"run {row['run_id']} in {database.uri} was stored by another rescore: its plan "
                f"cannot be read ({type(error).__name__}). Install the version that wrote it"
            ) from error

    def plan_json(self) -> str:
        """Write the plan as it is stored: the keys of all versions so far."""
        own = {"database": self.database.uri, "chunk_queries": self.search.chunk_queries}
        for name in _PLAIN:
            own[name] = getattr(self, name)
        search = self.search.model_dump(mode="json", exclude={"chunk_queries"})
        if self.blend is not None:  # without it plans stay as earlier versions wrote them
            own["blend"] = self.blend.named
        corpus, queries = self.corpus.stored(), vars(self.queries)
        return json.dumps({**own, "search": search, "corpus": corpus, "queries": queries})

    @property
    def chunks(self) -> list[int]:
        """The chunks' numbers; each has `search.chunk_queries` queries of the set, by id."""
        return list(range(-(-self.queries.count // self.search.chunk_queries)))

    @property
    def results_table(self) -> str:
        """The name of the table that holds the run's results."""
        return results_name(self.run_id)

    @property
    def score_columns(self) -> list[str]:
        """The score columns of the results beside `_relevance_score`."""
        return score_columns(self.search.query_types, self.return_score)

    @property
    def status(self) -> str:
        """`done`, `running` or `abandoned` as the tables say it; `planned` without a row."""
        return "planned" if self.row is None else self.row["status"]

    @property
    def stored(self) -> RunRow:
        """The run's row; raises MissingResource if the run is only planned."""
        if self.row is None:
            raise MissingResource(f"run {self.run_id} has no row in {self.database.uri} yet")
        return self.row

    @cached_property
    def config(self) -> Config | None:
        """The config that the run was started with; None if another rescore wrote other keys.

        Of a run for one query set it is that one's: its judgments, measures and gates.
        """
        try:
            whole = Config.model_validate_json(self.stored["config_json"])
        except ValidationError:
            return None
        return whole.of_set(self.part) if self.part in whole.queries.sets else whole

    @cached_property
    def query_rows(self) -> pa.Table:
        """The run's queries by id, the schema QUERIES; read once, for their version is pinned."""
        return self.only_own(read_queries(self.database, self.queries))

    @cached_property
    def sets(self) -> tuple[str, ...]:
        """The query sets that its config makes it of and that are stored; none if it is of one."""
        config = None if self.row is None or self.part is not None else self.config
        return () if config is None else still_stored(self.database, config.queries.sets)

    def of_set(self, query_set: str) -> Run:
        """Return the finished run as it is for the queries of one query set, as stored now.

        Its config is the set's. Raises MissingResource if no such set is stored.
        """
        made = replace(self, part=query_set)
        made.__dict__["_members"] = stored_set(self.database, query_set)["query_id"]
        return made

    @cached_property
    def _members(self) -> pa.ChunkedArray:
        return stored_set(self.database, str(self.part))["query_id"]

    def only_own(self, rows: pa.Table) -> pa.Table:
        """Return those rows (with query_id) that are of the run's own queries."""
        if self.part is None:
            return rows
        return rows.filter(pc.is_in(rows["query_id"], self._members))

    @cached_property
    def marks(self) -> dict[int, dict[str, Any]]:
        """The rows of `searches` by chunk: as they stood at the first look, and this process' own.

        Each chunk would otherwise read those of all others.
        """
        from reranking.runs.candidates import searched

        return searched(self)

    @cached_property
    def stored_candidates(self) -> StoredCandidates:
        """What was found for the chunks that were searched before, to be read in order."""
        from reranking.runs.candidates import StoredCandidates

        return StoredCandidates(self)

    @cached_property
    def at_hand(self) -> dict[int, pa.Table]:
        """The candidates of the chunks that this process is working on."""
        return {}

    def chunk_of_queries(self, chunk: int) -> pa.Table:
        """Return the queries of one chunk, by id."""
        size = self.search.chunk_queries
        return self.query_rows.slice(chunk * size, size)

    def results(self) -> pa.Table:
        """Read the results: query_id, query_type, rank, doc_id and the score columns.

        Raises MissingResource if the run has not published any.
        """
        return self.only_own(self.database.need(self.results_table).to_arrow())

    def measures(self, judgment_list: str | None = None) -> pa.Table:
        """Measure the run: query_type, measure, first, reranked, queries; one row a measure.

        `first` and `reranked` are means over the judged queries, null if there is no such stage.
        None is the judgment list of the run's config, else the only one of its query set. Raises
        ConfigError if no list can be chosen.
        """
        from reranking.evaluation.run_comparison import asked_measures
        from reranking.evaluation.run_measures import evaluate_run, means
        from reranking.evaluation.sides import Side, judgments_of

        chosen = judgments_of([Side(self, "reranked", self.run_id[:8])], judgment_list)
        if chosen is None:
            raise ConfigError(
                f"no judgment list is stored for query set {self.queries.name!r}: measures need "
                "one; name a `judgments.source`"
            )
        config = self.config
        done = evaluate_run(
            self,
            chosen,
            asked_measures(config),
            ignore_identical_ids=config is not None and config.ignore_identical_ids,
        )
        return means(done.metrics)

    def compare(self, base: Run | str = "production") -> Comparison:
        """Compare the run with another one by the run's own config; one verdict and its evidence.

        `base` is a run, the beginning of a run's id or a promoted name; `:first` behind it means
        its first stage. Raises MissingResource if it does not exist or is not finished.
        """
        from reranking.evaluation.run_comparison import Comparisons
        from reranking.evaluation.sides import find_side

        name = base.run_id if isinstance(base, Run) else base
        comparisons = Comparisons(self.database, self.run_id, self.config, part=self.part)
        return comparisons.against(find_side(self.database, name)).comparisons[0]

    def explain(
        self, query_id: str, doc_id: str | None = None, against: Run | str | None = None
    ) -> Explanation:
        """Say where documents are for a query and why; beside another run, what moved them."""
        from reranking.evaluation.explain import explain
        from reranking.evaluation.sides import find_side

        if isinstance(against, str):
            against = find_side(self.database, against).run
        return explain(self, query_id, doc_id, against)

    def diff(self, before: Run | str) -> RunDiff:
        """Say what changed since another run of the query set: documents, ranks and scores."""
        from reranking.evaluation.run_diff import diff_runs
        from reranking.evaluation.sides import find_side

        if isinstance(before, str):
            before = find_side(self.database, before).run
        return diff_runs(before, self)

    def sweep(self) -> Sweep:
        """Say what other depths, legs, fusions, blends and cuts would give, by the run's config.

        From stored scores; settings are chosen on some queries and told on others.
        """
        from configs.evaluation import ComparisonSettings
        from reranking.evaluation.sweep.run_sweep import sweep_run

        config = self.config
        return sweep_run(
            self,
            ComparisonSettings() if config is None else config.comparison,
            ignore_identical_ids=config is not None and config.ignore_identical_ids,
        )

    def promote(self, name: str) -> None:
        """Give the run a name, such as `production`, that comparisons and gates refer to."""
        from reranking.runs.promotion import promote

        promote(self.database, self.run_id, name)

    def _repr_html_(self) -> str:
        row = self.stored
        facts = {
            "status": row["status"],
            "query set": f"{self.queries.name} ({self.queries.count:,} queries)",
            "query types": ", ".join(self.search.query_types),
            "documents": f"{self.corpus.table} at version {self.corpus.version}",
            "reranker": row["reranker_model"] or "none",
            "results": self.results_table,
            **row["counts"],
        }
        return html_table(f"Run {self.run_id[:8]}", ["what", "value"], list(facts.items()))

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: the fields, without what was read meanwhile."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


_OWN = {"database", "corpus", "queries", "search", "blend", "row", "last_sign", "part"}
_PLAIN = tuple(f.name for f in fields(Run) if f.name not in _OWN)


def results_name(run_id: str) -> str:
    """Return the name of a run's results table."""
    return f"results_{run_id}"


def published_epoch(database: Database, run_id: str) -> int | None:
    """Return the epoch of the run's published results, None if there are none.

    The results table is the only done-mark. Raises MissingResource if a table of that name is
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


def need_row(run: Run) -> dict[str, Any]:
    """Read the run's row; raises MissingResource if somebody removed it during the run's work."""
    row = stored_row(run.database, run.run_id)
    if row is None:
        raise MissingResource(
            f"run {run.run_id} has no row in `runs` any more: somebody forgot the run or dropped "
            "the table while it was at work; start the command again"
        )
    return row


def with_versions(run: Run, documents: int, queries: int) -> Run:
    """Return the run at other versions of the same content."""
    return replace(
        run,
        corpus=replace(run.corpus, version=documents),
        queries=replace(run.queries, version=queries),
    )
