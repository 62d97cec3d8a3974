"""A run's chunks of queries: searched, scored, published.

Each chunk is worked on in this process, one after the other, or by some worker. What stays between
the chunks of a run (the model, the known scores) belongs to the Pipeline and ends with it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

from configs.schema import Config
from reranking.errors import RescoreError, RuntimeFailure, StoreAway
from reranking.memory import give_back
from reranking.pipeline import Pipeline
from reranking.progress import duration, unwatched
from reranking.retry import is_of_passing_fault
from reranking.runs.candidates import search_and_store
from reranking.runs.lengths import PairLengths
from reranking.runs.listing import find_run
from reranking.runs.others import Others, order_of_chunks
from reranking.runs.pairs import TABLE
from reranking.runs.plan import finish_run
from reranking.runs.publish import publish_results, run_counts
from reranking.runs.recall import recall_of
from reranking.runs.refine import Refined, Refiner, refined_counts
from reranking.runs.rerank import Rescorer
from reranking.runs.rows import REFUSED
from reranking.runs.run import Run
from reranking.scoring.crossencoder import CrossEncoderModel, Reranker
from reranking.scoring.scorer import Scorer, resolve_device
from reranking.steps import Here, step, tried
from reranking.store import equals
from reranking.workers.admission import Admission
from reranking.workers.crew import Tally, Worker, hand_out, open_crew
from reranking.workers.devices import place
from reranking.workers.presence import Asked, fault_of_worker, own_config, what_is_asked
from reranking.workers.telling import Teller

log = logging.getLogger(__name__)

Report = dict[str, Any]
"""What was done to one chunk: pairs, scored, seconds, forward, search, path, refined."""

_loading = threading.Lock()


@dataclass(frozen=True)
class _Scoring:
    """What stays between the chunks of a run: its Rescorer, and what refines after it."""

    run: Run
    rescorer: Rescorer
    refiner: Refiner | None = None

    def doubt(self, doubtful: bool) -> None:
        """Look up again what is to be scored next, because others may have scored it."""
        self.rescorer.doubtful = doubtful
        if self.refiner is not None:
            self.refiner.exact.doubtful = doubtful

    @property
    def seconds(self) -> float:
        """Seconds in the models so far."""
        exact = 0.0 if self.refiner is None else self.refiner.exact.seconds
        return self.rescorer.seconds + exact


def work(pipeline: Pipeline, run: Run) -> Iterator[Report]:
    """Search and score all chunks of the run, and report on each.

    Raises RuntimeFailure if chunks are lost again and again; those that are done stay done.
    """
    if pipeline.config.execution.alone:
        yield from _in_turn(pipeline, run)
    else:
        yield from pipeline.executor.call(work_in_workers, pipeline, run)


def _in_turn(pipeline: Pipeline, run: Run) -> Iterator[Report]:
    """Each chunk in this process; the next one is searched while one is scored."""
    submit, chunks, started = pipeline.executor.submit, order_of_chunks(run), time.monotonic()
    others = Others(run)
    ahead = {chunk: submit(search_chunk, pipeline, run, chunk) for chunk in chunks[:1]}
    for done, chunk in enumerate(chunks, 1):
        seconds = ahead.pop(chunk).result()
        again = others.give(chunk)
        _doubt(pipeline, again)
        for following in chunks[done : done + 1]:
            _meet_marks(run, following, again)
            ahead[following] = submit(search_chunk, pipeline, run, following)
        report = pipeline.executor.call(score_chunk, pipeline, run, chunk)
        run.at_hand.pop(chunk, None)
        give_back()
        left = (time.monotonic() - started) / done * (len(chunks) - done)
        log.info(
            "chunk %d of %d: %s pairs, of which %s scored, %s left",
            *(done, len(chunks), f"{report['pairs']:,}", f"{report['scored']:,}"),
            duration(left),
        )
        yield report | {"search": seconds}


def _doubt(pipeline: Pipeline, again: bool) -> None:
    """Look up again what this thread is about to score, if others may have scored it."""
    scoring: _Scoring | None = getattr(pipeline.resident, "scoring", None)
    if scoring is not None:
        scoring.doubt(again)


def _meet_marks(run: Run, chunk: int, again: bool) -> None:
    """Read again what is searched, if others may have searched the chunk."""
    if again and chunk not in run.marks:
        run.__dict__.pop("marks")


@step("work-in-workers")
def work_in_workers(pipeline: Pipeline, run: Run) -> list[Report]:
    """Hand the chunks to workers; those of workers that died go to others."""
    asked, others = _asked_of_workers(pipeline, run), Others(run)

    def submit(worker: Worker, chunk: int, again: bool) -> Future[Any]:
        again = others.give(chunk) or again
        return worker.submit(work_here, pipeline.job, asked, run, chunk, again)

    before = _rows_of_reranker(run)
    with (
        open_crew(pipeline.config) as crew,
        Admission(asked, fault_of_worker) as admission,
        pipeline.executor.watch("pairs") as progress,
    ):
        tally = hand_out(
            crew,
            order_of_chunks(run),
            submit,
            admit=admission,
            tell=Teller(progress, len(run.chunks)),
            enough=lambda tally: _is_spent(pipeline, tally),
        )
    if not tally.whole:
        pipeline.budget.pairs = _rows_of_reranker(run) - before
        pipeline.budget.stop(
            pipeline.budget.spent() or "a worker reached execution.max_pairs or max_seconds"
        )
    if tally.deadly:
        first = min(tally.deadly)
        fault = tally.deadly[first]
        raise RuntimeFailure(
            f"{len(tally.deadly)} of {len(run.chunks)} chunks could not be done (chunk "
            f"{first} first) for {type(fault).__name__}: {fault}. Start the command "
            "again to go on with these"
        ) from fault
    reports = [tally.results[chunk] for chunk in run.chunks]
    if tally.tried_again:
        _add_lost_work(reports, _rows_of_reranker(run) - before)
    return reports


def _is_spent(pipeline: Pipeline, tally: Tally) -> bool:
    """Whether the limits of the config are reached by what all workers did."""
    pipeline.budget.pairs = sum(report["scored"] for report in tally.results.values())
    return pipeline.budget.spent() is not None


def _asked_of_workers(pipeline: Pipeline, run: Run) -> Asked:
    """What workers must have for the run, and are sent if only the driver has it."""
    settings, reranker = pipeline.config.rerank, pipeline.reranker
    encoder = pipeline.encoder if pipeline.by_vectors else None
    folders = [] if encoder is None else [encoder.folder]
    if run.reranker is not None and isinstance(reranker, CrossEncoderModel):
        folders.append(reranker.folder)
    return what_is_asked(
        shipped(pipeline),
        table="runs",
        auto=settings is not None and settings.precision == "auto" and settings.api is None,
        reranker=run.reranker,
        encoder=None if encoder is None else encoder.fingerprint,
        folders=folders,
    )


def shipped(pipeline: Pipeline) -> Config:
    """The config as workers get it: what the driver found out is not found out again.

    `precision: auto` depends on the devices, and a worker's may not be the driver's. An encoder
    is named only if the run encodes queries.
    """
    config, model = pipeline.config, pipeline.reranker
    if (left := pipeline.budget.seconds_left) is not None:
        own = config.execution.model_copy(update={"max_seconds": left})
        config = config.model_copy(update={"execution": own})
    encoder = pipeline.encoder if pipeline.by_vectors else None
    documents = config.documents.model_copy(update={"encoder": encoder and encoder.settings})
    config = config.model_copy(update={"documents": documents})
    if config.rerank is None or model is None or config.rerank.precision != "auto":
        return config
    if config.rerank.api is not None:  # a precision is a server's own business
        return config
    rerank = config.rerank.model_copy(update={"precision": model.dtype})
    return config.model_copy(update={"rerank": rerank})


def _rows_of_reranker(run: Run) -> int:
    if run.reranker is None or TABLE not in run.database.names():
        return 0
    where = equals("reranker", bytes.fromhex(run.reranker)).to_sql()
    return int(run.database.need(TABLE).count_rows(where))


def _add_lost_work(reports: list[Report], stored: int) -> None:
    """Count what lost workers had committed: it was scored by this job and is no reuse."""
    missing = stored - sum(report["scored"] for report in reports)
    for report in reports:
        more = max(0, min(missing, report["pairs"] - report["scored"]))
        report["scored"] += more
        missing -= more


@step("work-on-chunk", 5, 30)
def work_on_chunk(pipeline: Pipeline, run: Run, chunk: int) -> Report:
    """Search and score one chunk."""
    seconds = search_chunk(pipeline, run, chunk)
    report = score_chunk(pipeline, run, chunk) | {"search": seconds}
    run.at_hand.pop(chunk, None)
    give_back()
    return report


@step("search-chunk", 5, 30)
def search_chunk(pipeline: Pipeline, run: Run, chunk: int) -> float:
    """Store the candidates of one chunk unless that is done; the seconds it took."""
    started = time.monotonic()
    search_and_store(run, chunk, pipeline.encoder, _device(pipeline.config))
    return time.monotonic() - started


def _device(config: Config) -> str:
    """The reranker's device, or the first of them: exact search multiplies there."""
    device = "cpu" if config.rerank is None else config.rerank.device
    return resolve_device(device if device is None or isinstance(device, str) else device[0])


@step("score-chunk")
def score_chunk(pipeline: Pipeline, run: Run, chunk: int) -> Report:
    """Score the chunk's pairs that have no score; counts, seconds, the path that scored."""
    if run.reranker is None:
        nothing = {"path": None, "refined": None}
        return {"pairs": 0, "scored": 0, "seconds": 0.0, "forward": 0.0, **nothing}
    started = time.monotonic()
    scoring = _scoring(pipeline, run)
    rescorer, before = scoring.rescorer, scoring.seconds
    with pipeline.executor.watch("pairs") as progress:
        rescorer.progress = pipeline.budget.limited(progress, scoring=True)
        counts = rescorer.score_chunk(chunk)
    refined = None
    if scoring.refiner is not None:
        with pipeline.executor.watch("pairs in float32") as progress:
            scoring.refiner.exact.progress = pipeline.budget.limited(progress)
            refined = asdict(scoring.refiner.refine_chunk(chunk))
    return {
        **asdict(counts),
        "seconds": time.monotonic() - started,
        "forward": scoring.seconds - before,
        "path": None if rescorer.scorer is None else rescorer.scorer.path,
        "refined": refined,
    }


def _scoring(pipeline: Pipeline, run: Run) -> _Scoring:
    """This thread's Rescorer for the run, made on first use."""
    held: _Scoring | None = getattr(pipeline.resident, "scoring", None)
    if held is None or not _same_work(held.run, run):
        first = _rescorer(pipeline, run, "reranker", run.reranker)
        refiner = None
        if run.refiner is not None:
            refiner = Refiner(first, _rescorer(pipeline, run, "refiner", run.refiner))
        held = pipeline.resident.scoring = _Scoring(run, first, refiner)
    return held


def _same_work(one: Run, other: Run) -> bool:
    """Whether two runs write the same and read the same version."""
    return (one.run_id, one.epoch, one.corpus) == (other.run_id, other.epoch, other.corpus)


def _rescorer(pipeline: Pipeline, run: Run, model: str, fingerprint: str | None) -> Rescorer:
    return Rescorer(
        run,
        lambda: _load(pipeline, model, fingerprint),
        reranker=fingerprint,
        commit_seconds=pipeline.config.execution.commit_seconds,
    )


def _load(pipeline: Pipeline, model: str, fingerprint: str | None) -> Scorer:
    """The scorer; its model must still be the one that the run was planned with."""
    given: Reranker | None = getattr(pipeline, model)
    assert given is not None
    with _loading:  # transformers loads one model at a time
        scorer = given.load()
    if given.fingerprint.hex() != fingerprint or not given.is_unchanged():
        raise RuntimeFailure(
            f"the model {given.name!r} was changed while the run was at work: "
            "start the command again, the changed model makes a new run"
        )
    return scorer


@step("publish-results", 5, 30)
def publish(
    pipeline: Pipeline,
    run: Run,
    counts: Mapping[str, Any],
    seconds: Mapping[str, float],
    refined: Sequence[Mapping[str, Any]] = (),
) -> dict[str, float]:
    """Write the results table and mark the run as done; the run's final counts."""
    if not pipeline.config.execution.alone:  # what workers stored is not known here yet
        pipeline.resident = threading.local()
    scoring = None if run.reranker is None else _scoring(pipeline, run)
    refiner = None if scoring is None else scoring.refiner
    lengths = _lengths(pipeline, run)
    publish_results(
        run,
        None if scoring is None else scoring.rescorer.store,
        None if refiner is None else refiner.exact.store,
        seen=None if lengths is None else lengths.see,
    )
    final: dict[str, float] = dict(run_counts(run, counts["pairs"], counts["scored"]))
    if lengths is not None:
        final |= lengths.counts()
    recall, least = recall_of(run.database, run.search_id), pipeline.config.search.min_recall
    too_little = recall is not None and least is not None and recall.recall < least
    if pipeline.config.gated or too_little:  # until they are checked: a kill may come before
        final[REFUSED] = 1
    if refiner is not None:
        final |= refined_counts([Refined(**chunk) for chunk in refined])
    finish_run(run, final, seconds, counts["path"])
    return final


def _lengths(pipeline: Pipeline, run: Run) -> PairLengths | None:
    """What counts the run's pairs that are longer than the model reads; None without a model."""
    if run.reranker is None:
        return None
    limit = None if pipeline.reranker is None else pipeline.reranker.max_length
    return PairLengths(run, _scoring(pipeline, run).rescorer.store, limit)


@step("recall-run")
def recall(pipeline: Pipeline, run: Run) -> dict[str, float]:
    """Return the counts of a finished run: nothing of it is computed again.

    A process that was killed between publishing and marking the run as done left no counts.
    """
    counts: dict[str, float] = dict(find_run(pipeline.database, run.run_id).stored["counts"])
    if not counts:
        counts = dict(run_counts(run, None, 0))
        if (lengths := _lengths(pipeline, run)) is not None:
            counts |= lengths.counts()
        finish_run(run, counts, {}, None)
    return counts | {"scored": 0, "reused": counts.get("pairs", 0)}


def work_here(job: str, asked: Asked, run: Run, chunk: int, again: bool = False) -> Report:
    """Search and score one chunk in this worker, whose pipeline stays for the job's next chunk.

    `again`: others may have done a part of it, such as a lost worker: that is looked up.
    A process may call this in several threads (Dask's has one a core): they share one model.
    """
    number = getattr(place, "number", None)
    with _turns[number]:
        held = _held.get(number)
        if held is None or held.job != job:
            own = Pipeline(own_config(asked), Here(unwatched))
            own.job, own.resident = job, SimpleNamespace(run=run)
            held = _held[number] = own
        if not _same_work(held.resident.run, run):
            held.resident.run = run
        _doubt(held, again)
        _meet_marks(held.resident.run, chunk, again)
        try:
            return tried(work_on_chunk, held, held.resident.run, chunk)
        except RescoreError as error:
            if is_of_passing_fault(error):
                raise StoreAway(str(error)) from error
            raise


_held: dict[int | None, Pipeline] = {}
_turns: defaultdict[int | None, threading.Lock] = defaultdict(threading.Lock)
