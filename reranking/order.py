"""The order of a run's steps: it stands here once, for flows, commands, notebooks and tests.

Each function takes a Pipeline, whose executor carries out the steps: in this process, or as the
tasks of a flow run.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from configs.source import masked
from reranking import chunks
from reranking.errors import GateFailed, RescoreError, RuntimeFailure, ToBeContinued
from reranking.files import check_out
from reranking.pipeline import Pipeline
from reranking.runs.plan import note_end, note_gates
from reranking.runs.run import Run
from reranking.runs.settings import pipeline_of
from reranking.summary import Summary

if TYPE_CHECKING:
    from reranking.evaluation.run_comparison import Comparisons

log = logging.getLogger(__name__)

_REASON = 1000  # characters kept of why a run ended
_CHANGES = 3  # of somebody else's table, while one run reads it


def rescore(pipeline: Pipeline, *, force: bool = False, serve: bool = True) -> Summary:
    """Do the main job: ingest what changed, search, rerank, publish, evaluate.

    Without `serve` the table for consumers is left as it is. However it ends, `results.metrics`
    says so.
    """
    if pipeline.config.results.metrics is not None:
        check_out(Path(pipeline.config.results.metrics))
    try:
        summary = _rescore(pipeline, force, serve)
    except ToBeContinued:
        _write_metrics(pipeline, "to be continued")
        raise
    except BaseException:
        _write_metrics(pipeline, "failed")
        raise
    _write_metrics(pipeline, "done" if passed(summary.gates) else "refused", summary.as_dict())
    return summary


def _write_metrics(pipeline: Pipeline, state: str, values: Mapping[str, Any] | None = None) -> None:
    from reranking.report.textfile import write_metrics

    config = pipeline.config
    if config.results.metrics is None:
        return
    primary = config.comparison.primary, config.comparison.query_type
    try:
        file = Path(config.results.metrics)
        write_metrics(file, str(pipeline_of(config)), state, values, primary)
    except (RescoreError, OSError) as error:  # what the run did stands, whatever this file does
        log.warning("results.metrics could not be written: %s", error)


def _rescore(pipeline: Pipeline, force: bool, serve: bool) -> Summary:
    call, summary = pipeline.executor.call, Summary(pipeline.config)
    pipeline.check()
    if pipeline.config.queries.sets:
        call(pipeline.check_queries)
    with summary.timed("ingest"):
        summary.ingested(call(pipeline.ingest))
        summary.rejected(call(pipeline.load_queries))
        summary.rejected(call(pipeline.load_judgments)["rejected"])

    def plan() -> Run:
        run = call(pipeline.plan, force)
        summary.rejected(call(pipeline.store_ranking, run))
        return run

    run = score(pipeline, plan, summary)
    judge(pipeline, run, summary)
    _gate_data(pipeline, run, summary)
    if serve and passed(summary.gates):
        summary.served(call(pipeline.serve, run))
    return summary


def _gate_data(pipeline: Pipeline, run: Run, summary: Summary) -> None:
    """Check the gates on data beside the judged ones; a refused run is no measure of later ones."""
    from reranking.evaluation.data_gates import both, check_data

    config = pipeline.config
    if config.gated:
        data = pipeline.executor.call(check_data, config, run, summary.rejects)
        summary.gated(both(summary.gates, data))
    if config.gated or summary.gates is not None:
        failed = 0 if summary.gates is None else len(summary.gates["reasons"])
        note_gates(run, failed)


def reevaluate(pipeline: Pipeline) -> Summary:
    """Score the stored candidates with another model and compare with the promoted run.

    The table for consumers is not touched: that is for `rescore` after the run is promoted.
    """
    from reranking.reevaluation import compare_with_promoted, encode_vectors, plan_again

    call, summary = pipeline.executor.call, Summary(pipeline.config)
    pipeline.check()
    with summary.timed("encode"):
        summary.encoded = call(encode_vectors, pipeline)
        summary.rejected(call(pipeline.load_judgments)["rejected"])
    run = score(pipeline, lambda: call(plan_again, pipeline), summary)
    comparisons = judge(pipeline, run, summary)
    with summary.timed("evaluate"):
        summary.comparison = call(compare_with_promoted, comparisons)
    return summary


def ingest(pipeline: Pipeline) -> dict[str, Any]:
    """Bring the documents table in line with its source; what was done, in rows."""
    return pipeline.executor.call(pipeline.ingest)


def maintain(
    pipeline: Pipeline, dry_run: bool = False, older_than: float | None = None
) -> dict[str, Any]:
    """Look after the database; what was done, or in a dry run would be."""
    from reranking.maintenance import maintain_database

    return pipeline.executor.call(maintain_database, pipeline, dry_run, older_than)


def watch(
    pipeline: Pipeline, announce: Callable[[list[dict[str, Any]]], None] | None = None
) -> tuple[list[dict[str, Any]], Summary | None]:
    """Reevaluate if a configured model is not the promoted run's; the changes, and what was done.

    `announce` is told of the changes before any work; nothing is loaded if there are none.
    """
    from reranking.reevaluation import changed_models

    changes = pipeline.executor.call(changed_models, pipeline)
    if not changes:
        return [], None
    if announce is not None:
        announce(changes)
    return changes, reevaluate(pipeline)


def bakeoff(
    pipeline: Pipeline, rerankers: Sequence[str] = (), encoders: Sequence[str] = ()
) -> dict[str, Any]:
    """Run every encoder with every reranker, one after the other, and lay them side by side.

    What is scored already is found; a model that fails is a row with its reason. The table for
    consumers is not touched.
    """
    from reranking.bakeoff import compared, contenders, failed, finished, table_of
    from reranking.reevaluation import encode_vectors, plan_trial

    call, config = pipeline.executor.call, pipeline.config
    if config.queries.sets:
        call(pipeline.check_queries)
    call(pipeline.ingest)
    call(pipeline.load_queries)
    call(pipeline.load_judgments)
    rows, sides = [], {}
    for contender in contenders(config, rerankers, encoders):
        own = Pipeline(contender.config, pipeline.executor)
        own.budget = pipeline.budget  # the limits are those of all contenders together
        try:
            own.check()
            call(encode_vectors, own)
            run = score(own, partial(call, plan_trial, own), Summary(own.config))
            row, sides[run.run_id] = call(finished, contender, own, run)
            rows.append(row)
        except ToBeContinued:
            raise
        except Exception as error:
            log.warning("%s: %s", contender.name, error)
            rows.append(failed(contender, error))
    sets = {name: call(compared, config, rows, sides, name) for name in config.queries.sets}
    return table_of(config, call(compared, config, rows, sides), sets)


def label(pipeline: Pipeline, run: str | None = None) -> dict[str, Any]:
    """Take in judgments, then label the named run, or the pipeline's newest, by the config's rule.

    No model is loaded.
    """
    from reranking.labelling.answers import label_stored_run

    call = pipeline.executor.call
    rejected = call(pipeline.load_judgments)["rejected"]
    values: dict[str, Any] = call(label_stored_run, pipeline.config, run)
    return values | {"rejected": rejected}


def score(pipeline: Pipeline, plan: Callable[[], Run], summary: Summary) -> Run:
    """Score the run that `plan` gives; the run that was finished.

    Somebody else's table may be cleaned up or replaced while it is read: it is then planned again
    with what is there. The same documents are the same run, which goes on; candidates and scores
    that are stored are reused in any case.
    """
    for left in range(_CHANGES, -1, -1):
        run = plan()
        try:
            _score(pipeline, run, summary)
            return run
        except ToBeContinued as stopped:
            _note(run, "to be continued", str(stopped))
            stopped.values |= {"run_id": run.run_id, "rejected": summary.rejects}
            raise
        except Exception as error:
            happened = None if run.corpus.managed else pipeline.fate(run)
            if happened is None:
                _note(run, "failed", f"{type(error).__name__}: {error}")
                raise
            if not left:
                _note(run, "failed", happened)
                raise RuntimeFailure(
                    f"{happened}, for the {_CHANGES + 1}th time. Start the command again when its "
                    "owner is done, or name a version that stays: documents.version"
                ) from error
            log.warning("%s. Going on with the table as it is, and what is stored", happened)
            summary.begun_again()
            pipeline.resident = threading.local()
        except BaseException:  # Ctrl-C, SIGTERM, and Prefect's own signal
            _note(run, "stopped", "stopped from outside, by Ctrl-C or SIGTERM")
            raise
    raise AssertionError("unreachable")


def _note(run: Run, status: str, reason: str) -> None:
    """Store how the run ended, if that can be: what ended it is raised in any case."""
    with suppress(Exception):
        note_end(run, status, masked(" ".join(reason.split()))[:_REASON])


def _score(pipeline: Pipeline, run: Run, summary: Summary) -> None:
    """Search, score and publish the run, unless it is finished: then its counts are recalled."""
    call = pipeline.executor.call
    if run.finished:
        summary.repeated(run, call(chunks.recall, pipeline, run))
        return
    for report in chunks.work(pipeline, run):
        summary.worked(report)
    if not run.corpus.managed and (happened := pipeline.fate(run)) is not None:
        raise RuntimeFailure(happened)
    with summary.timed("publish"):
        counts = call(
            chunks.publish, pipeline, run, summary.counts, summary.seconds, summary.refined
        )
        summary.published(run, counts)


def judge(pipeline: Pipeline, run: Run, summary: Summary) -> Comparisons:
    """Measure the run, check its gates, write its report; its comparisons, each made once."""
    call, comparisons = pipeline.executor.call, pipeline.comparisons(run)
    with summary.timed("evaluate"):
        summary.evaluated(call(pipeline.evaluate, run))
        summary.gated(call(pipeline.gates, comparisons))
        summary.reported(call(pipeline.write_report, comparisons))
    return comparisons


def passed(gates: Mapping[str, Any] | None) -> bool:
    """Return whether nothing speaks against going live."""
    return gates is None or bool(gates["passed"])


def refuse_failed(values: dict[str, Any]) -> dict[str, Any]:
    """Return a summary's values; raises GateFailed, which carries them, if its gates failed."""
    gates = values["gates"]
    if passed(gates):
        return values
    raise GateFailed("a gate failed:\n  " + "\n  ".join(gates["reasons"]), values)


def _rescored(pipeline: Pipeline, force: bool = False, serve: bool = True) -> dict[str, Any]:
    return refuse_failed(rescore(pipeline, force=force, serve=serve).as_dict())


def _reevaluated(pipeline: Pipeline) -> dict[str, Any]:
    return refuse_failed(reevaluate(pipeline).reevaluation())


def _watched(pipeline: Pipeline) -> dict[str, Any]:
    changes, summary = watch(pipeline)
    if summary is None:
        return {"changed": []}
    return {"changed": changes, "reevaluation": refuse_failed(summary.reevaluation())}


JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    "ingest": ingest,
    "rescore": _rescored,
    "reevaluate": _reevaluated,
    "watch": _watched,
    "bakeoff": bakeoff,
    "label": label,
    "maintain": maintain,
}
"""The jobs by the names of their flows: each returns what its flow returns."""
