"""Mine negatives, write training data, export judgments; plain functions, no server is needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from configs.schema import Config
from reranking.corpus.queries import read_queries
from reranking.judgments.lists import current_wording, read_lists
from reranking.labelling.answers import open_database, plain, relevant_of, run_of
from reranking.labelling.calibration import Calibration, Uncalibrated, fit
from reranking.labelling.judged import sample_of
from reranking.labelling.judgment_files import export_judgments
from reranking.labelling.label_sets import find_label_set
from reranking.labelling.mining import MiningReport
from reranking.labelling.run_labels import calibration_of
from reranking.labelling.run_training import (
    Files,
    MiningInputs,
    answerable,
    export_training,
    labels_now,
    mine_run,
    with_labels,
)
from reranking.labelling.scored import ScoredRun
from reranking.store import Database


def mine(config: Config, run: str | None, out: Path | None) -> dict[str, Any]:
    """What mining finds in a finished run; with `out` the negatives as a Parquet file."""
    scored, inputs = _inputs(config, run)
    return _values(scored, inputs, mine_run(scored, inputs, out))


def training_files(
    config: Config, run: str | None, out: Path, output_format: str | None, files: Files
) -> dict[str, Any]:
    """Write training data by the config's part `training`; rows per split, and the mining."""
    scored, inputs = _inputs(config, run)
    given = config.training.model_copy(
        update={} if output_format is None else {"output_format": output_format}
    )
    done = export_training(scored, replace(inputs, training=given), out, files)
    wrote = {"folder": str(out), "output_format": given.output_format, "files": files}
    return {
        **wrote,
        "rows": done.rows,
        "skipped": done.skipped,
        **_values(scored, inputs, done.report),
    }


def judgment_files(
    config: Config, run: str | None, out: Path, form: str, label_set: str | None, k: int
) -> dict[str, Any]:
    """Write the judgments, with `label_set` its labels where nobody judged, as BEIR or qrels."""
    database = open_database(config)
    of = run_of(database, config, run)
    judgments = read_lists(database, config.judgment_lists, of.queries.name)
    if label_set is None:
        held = current_wording(judgments, read_queries(database, of.queries))
    else:
        scored = ScoredRun(of)
        _, labels = labels_now(label_set, scored)
        held = with_labels(judgments, labels, scored.queries)
    counts = export_judgments(of, held, out, form, k=k)
    return {"folder": str(out), "format": form, "run_id": of.run_id, **counts}


def _inputs(config: Config, run: str | None) -> tuple[ScoredRun, MiningInputs]:
    given, database = config.training, open_database(config)
    scored = ScoredRun(run_of(database, config, run))
    relevant = relevant_of(config) if given.relevant is None else given.relevant
    query_set = scored.run.queries.name
    judgments = answerable(scored, read_lists(database, config.judgment_lists, query_set))
    label_set, labels = None, None
    calibration = _calibration(database, config, scored, judgments, relevant)
    if given.label_set is not None:
        label_set, labels = labels_now(given.label_set, scored)
        if given.positives == "labels":
            judgments = with_labels(judgments, labels, scored.queries, positives_as=relevant)
    return scored, MiningInputs(given, judgments, relevant, calibration, labels, label_set)


def _calibration(
    database: Database, config: Config, run: ScoredRun, judgments: pa.Table, relevant: int
) -> Calibration | None:
    """The label set's calibration where it is of this reranker, else one of the judgments."""
    if config.training.label_set is not None:
        stored = calibration_of(find_label_set(database, config.training.label_set))
        if isinstance(stored, Calibration) and stored.reranker == run.reranker:
            return stored
    sample, _ = sample_of(judgments, relevant)
    fitted = fit(run.judged_pairs(sample), sample, run.reranker, relevant=relevant)
    return None if isinstance(fitted, Uncalibrated) else fitted


def _values(run: ScoredRun, inputs: MiningInputs, report: MiningReport) -> dict[str, Any]:
    return {
        "run_id": run.run.run_id,
        "label_set": inputs.label_set,
        "calibration": None if inputs.calibration is None else inputs.calibration.fingerprint,
        **plain(report),
        "hidden_positives": str(report.hidden_positives),
    }
