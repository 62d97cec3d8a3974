"""A config as the job that it describes: its steps, each of which can be called alone.

Models are found once, the database is opened once, and nothing outlives the object. The order of
the steps stands in `reranking.order`.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.load import load_config
from configs.schema import Config, Search
from reranking.budget import Budget
from reranking.corpus.corpus import Corpus, check_filter, pin_managed
from reranking.corpus.queries import (
    QuerySet,
    lacks_vectors,
    pin_queries,
    read_queries,
    store_queries,
)
from reranking.errors import ConfigError
from reranking.runs.listing import find_run, newest_done
from reranking.runs.plan import begin_run, plan_run, resolved_search
from reranking.runs.recall import Audit
from reranking.runs.rows import stored_row
from reranking.runs.run import Run
from reranking.runs.settings import pipeline_of
from reranking.scoring.crossencoder import Reranker, find_reranker, need_prerequisites
from reranking.scoring.encoder import SentenceEncoder
from reranking.steps import Executor, Here, step
from reranking.store import Database

if TYPE_CHECKING:
    from reranking.corpus.joined import ReadSets
    from reranking.evaluation.run_comparison import Comparisons


class Pipeline:
    """The job of one config, step by step or (`run`) in order.

    Steps are carried out by `executor`: in this process if none is given.
    """

    def __init__(
        self, config: Config | Mapping[str, Any], executor: Executor | None = None
    ) -> None:
        self.config = config if isinstance(config, Config) else Config.model_validate(config)
        self.executor: Executor = Here() if executor is None else executor
        self.budget = Budget(self.config.execution)
        self.job = uuid.uuid4().hex
        self.resident: Any = threading.local()  # what stays in a thread between the chunks of a run

    @classmethod
    def load(cls, path: str | Path, *overrides: str, executor: Executor | None = None) -> Pipeline:
        """Read a YAML config, with overrides such as `search.limit=20`.

        Raises ConfigError that names every fault of the config.
        """
        return cls(load_config(Path(path), overrides), executor)

    def run(self, *, force: bool = False) -> Run:
        """Do the whole job: ingest, search, rerank, publish, evaluate; the finished run.

        Raises GateFailed if the config's gates say that the run must not go live.
        """
        from reranking.order import refuse_failed, rescore

        summary = rescore(self, force=force)
        refuse_failed(summary.as_dict())
        assert summary.run is not None
        return find_run(self.database, summary.run.run_id)

    # What the config names ------------------------------------------------------------------

    @cached_property
    def database(self) -> Database:
        """The configured database."""
        return Database(self.config.database)

    @property
    def encoder(self) -> SentenceEncoder | None:
        """The encoder, None if documents and queries bring their vectors.

        It is the configured one, else the one that somebody else's table names in its metadata, if
        there are queries without a vector.
        """
        own = self.configured_encoder
        if own is None and not self.config.documents.managed and self.by_vectors:
            return self._stated_encoder
        return own

    @cached_property
    def configured_encoder(self) -> SentenceEncoder | None:
        """The encoder that the config names, None if it names none."""
        given = self.config.documents.encoder
        return None if given is None else SentenceEncoder(given)

    @cached_property
    def _stated_encoder(self) -> SentenceEncoder | None:
        from reranking.corpus.foreign import stated_encoder_of

        if not lacks_vectors(self.database, self.config.queries.query_set):
            return None
        return stated_encoder_of(self.database, self.config.documents)

    @cached_property
    def reranker(self) -> Reranker | None:
        """The configured reranker, None if only the first stage is published."""
        return None if self.config.rerank is None else find_reranker(self.config.rerank)

    @cached_property
    def refiner(self) -> Reranker | None:
        """The same cross-encoder in float32, None if nothing is to be refined."""
        settings = self.config.rerank
        if settings is None or settings.refine is None:
            return None
        assert self.reranker is not None
        if self.reranker.dtype == settings.refine:
            raise ConfigError(
                f"rerank.precision {settings.precision} is float32 on this device, so there is "
                "nothing to refine: leave out rerank.refine, or set rerank.precision to bfloat16"
            )
        return find_reranker(settings.model_copy(update={"precision": settings.refine}))

    @property
    def by_vectors(self) -> bool:
        """Whether the configured search has a vector leg."""
        return self.config.candidates is None and "vector" in self.config.search.legs

    @property
    def vector_column(self) -> str:
        """The managed table's column that ingest and run use; raises if it is not in use."""
        from reranking.corpus.takeover import take_over
        from reranking.upkeep.columns import column_in_use

        if self.encoder is not None:
            take_over(self.database, self.config.documents.table, self.encoder)
        fingerprint = "supplied" if self.encoder is None else self.encoder.fingerprint
        return column_in_use(self.database, self.config.documents.table, fingerprint)

    def stored_run(self, run: str | None = None) -> Run:
        """Return the run that is named, or the newest finished one of this pipeline."""
        database = Database(self.config.database, must_exist=True)
        return find_run(database, run) if run else newest_done(database, self.config)

    def corpus(self) -> Corpus:
        """Pin the documents table; raises InputError if its vectors come from another encoder."""
        from reranking.corpus.known_encoder import check_mark
        from reranking.corpus.vector_columns import need_complete

        database, corpus = self.database, self._pinned()
        check_filter(database, corpus, self.config.search.where)
        if self.by_vectors:
            check_mark(database, corpus, self.encoder)
            need_complete(database, corpus)
        return corpus

    def _pinned(self) -> Corpus:
        """The documents table at the version to be read, its vectors not looked at yet."""
        from reranking.corpus.foreign import pin_foreign

        documents, database = self.config.documents, self.database
        scored = None if self.config.rerank is None else self.config.rerank.column
        if documents.managed:
            return pin_managed(database, documents.table, scored, self.vector_column)
        return pin_foreign(database, documents, scored=scored, needs_vector=self.by_vectors)

    def search_of(self, corpus: Corpus) -> Search:
        """Return the search with its metric: the index's own unless the config names one."""
        return resolved_search(self.config, self.database, corpus)

    @cached_property
    def query_sets(self) -> ReadSets:
        """The configured query sets as they are to be stored; raises for all their faults."""
        from reranking.corpus.joined import read_sets

        return read_sets(self.database, self.config.queries)

    # The steps ------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise for what is wrong with the config and can be told before any model is loaded."""
        if self.config.all_judgments:
            from reranking.evaluation.run_comparison import check_measures

            check_measures(self.config)
        _ = self.configured_encoder, self.reranker, self.refiner
        if self.config.rerank is not None and self.config.execution.address is None:
            need_prerequisites(self.config.rerank)  # of a cluster's workers it is checked there

    @step("ingest-documents", 5)
    def ingest(self) -> dict[str, Any]:
        """Bring the documents table in line with its source; what was done, in rows.

        A table that is not managed is only looked through. Empty for one without a source.
        """
        from reranking.corpus.ingest import ingest
        from reranking.encoding import encoding
        from reranking.sources.open import read_documents, source_digest, source_fingerprint

        source = self.config.documents.source
        if not self.config.documents.managed:
            from reranking.corpus.foreign import survey

            return survey(self.database, self._pinned())
        if source is None:
            return {}
        with (
            self.executor.watch("documents") as progress,
            encoding(self.config, self.encoder) as encoder,
        ):
            report = ingest(
                self.database,
                partial(read_documents, source),
                encoder,
                self.config.documents,
                source_fp=source_fingerprint(source, "documents"),
                source_digest=source_digest(source),
                column=self.vector_column,
                metric=self.config.search.metric or "cosine",
                commit_seconds=self.config.execution.commit_seconds,
                progress=self.budget.limited(progress),
            )
        return report.as_dict()

    @step("check-queries")
    def check_queries(self) -> None:
        """Raise for what is wrong with any of several query sets: they are read, not stored yet."""
        _ = self.query_sets

    @step("load-queries")
    def load_queries(self) -> int:
        """Bring the stored query set in line with its source; the number of rejected rows."""
        from reranking.sources import open as sources

        given = self.config.queries
        if given.sets:
            return self.query_sets.store(self.database, given.query_set)
        if given.source is None:
            return 0
        rows = sources.read_queries(given.source)
        source_fp = sources.source_fingerprint(given.source, "queries")
        return store_queries(self.database, given.query_set, rows, source_fp)

    @step("load-judgments")
    def load_judgments(self) -> dict[str, int]:
        """Bring the stored judgment lists in line with their sources; rows rejected and stale."""
        from reranking.judgments.configured import load_judgments

        return load_judgments(self.database, self.config)

    @step("plan-run", 5)
    def plan(self, force: bool = False) -> Run:
        """Return the run that the present inputs name; its row is written unless finished."""
        corpus = self.corpus()
        queries = pin_queries(self.database, self.config.queries.query_set)
        run, encoder = self.planned(corpus, queries, force), self.encoder
        if encoder is not None and self.by_vectors and not (corpus.managed or run.finished):
            from reranking.corpus.known_encoder import check_vectors

            check_vectors(self.database, corpus, encoder, encoder.settings.model)
        return self.begin(run)

    def planned(
        self, corpus: Corpus, queries: QuerySet, force: bool = False, *, measure: bool = True
    ) -> Run:
        """Return the run that these inputs name.

        What it could not end with is raised before the work is done. Nothing is written but what
        the vector index loses, if that is measured.
        """
        from reranking.runs.consumers import check_columns, check_owner

        config, database = self.config, self.database
        check_owner(database, config.results, queries.name, corpus)
        check_columns(database, corpus, config.results)
        if config.all_judgments:
            from reranking.judgments.configured import check_lists

            check_lists(database, config, read_queries(database, queries))
        ranking = self._ranking(corpus, queries)
        return plan_run(
            database,
            corpus,
            queries,
            self.search_of(corpus),
            encoder=None if self.encoder is None else self.encoder.fingerprint,
            reranker=self.reranker,
            refiner=self.refiner,
            rerank=config.rerank,
            ranking=None if ranking is None else ranking.content,
            force=force,
            audit=Audit(self.encoder, measure, config.documents.may_bypass_index),
        )

    def fate(self, run: Run) -> str | None:
        """What happened to the run's documents since they were pinned; None if they are the same.

        Somebody else's table is not ours to tag: its owner may clean it up at any time.
        """
        from reranking.corpus.fate import fate

        return fate(self.database, run.corpus, run.search.where, run.documents_content)

    def begin(self, run: Run) -> Run:
        """Write the run's row unless it is finished; the run at the versions that are pinned."""
        if run.finished and stored_row(self.database, run.run_id) is not None:
            return run
        encoder, reranker = self.encoder, self.reranker
        return begin_run(
            run,
            {
                "pipeline": str(pipeline_of(self.config)),
                "encoder": None if encoder is None else encoder.fingerprint,
                "reranker_model": None if reranker is None else reranker.name,
                "reranker_revision": None if reranker is None else reranker.revision,
                "config_json": self.config.model_dump_json(),
            },
        )

    def _ranking(self, corpus: Corpus, queries: QuerySet) -> Any:
        """The configured ranking, None if the documents are searched."""
        from reranking.runs.given_ranking import read_given_ranking
        from reranking.sources.open import read_ranking

        given = self.config.candidates
        if given is None:
            return None
        rows = read_ranking(given.source)
        return read_given_ranking(self.database, rows, corpus, queries, self.config.search.limit)

    @step("store-ranking")
    def store_ranking(self, run: Run) -> int:
        """Store the configured ranking, if there is one, as candidates; its rejected rows."""
        from reranking.runs.given_ranking import store_given_ranking
        from reranking.sources.open import source_fingerprint

        ranking = self._ranking(run.corpus, run.queries)
        if ranking is None or self.config.candidates is None:
            return 0
        source_fp = source_fingerprint(self.config.candidates.source, "ranking")
        return store_given_ranking(run, ranking, source_fp)

    @step("publish-for-consumers", 5)
    def serve(self, run: Run) -> dict[str, Any] | None:
        """Bring the consumers' table up to date, if the config asks for one; what it holds then.

        With `results.serve: promoted` that is the promoted run, whichever is newest.
        """
        from reranking.runs.consumers import serve

        published = serve(run, self.config.results, self.config.comparison.against)
        return None if published is None else published.as_dict()

    @step("evaluate-run")
    def evaluate(self, run: Run) -> dict[str, Any]:
        """Measure the run: `measures` (means), what is `unknown`; `sets` has the same for each set.

        Without judgments nothing is measured.
        """
        from reranking.evaluation.answers import measured

        return measured(run, self.config)

    def comparisons(self, run: Run) -> Comparisons:
        """Return the run's comparisons, which gates, report and verdict share; none is made yet."""
        from reranking.evaluation.run_comparison import Comparisons

        return Comparisons(run.database, run.run_id, self.config)

    @step("check-gates")
    def gates(self, comparisons: Comparisons) -> dict[str, Any] | None:
        """Check the config's gates and what an index loses; None if there is nothing to check."""
        from reranking.evaluation.answers import gates

        return gates(self.config, comparisons)

    @step("write-report")
    def write_report(self, comparisons: Comparisons) -> dict[str, str] | None:
        """Write the report on a finished run; a link to the file, and its summary as Markdown.

        None if the config names no folder for reports.
        """
        if self.config.results.report is None:
            return None
        from reranking.report.answers import write_for

        return write_for(self.config, comparisons)
