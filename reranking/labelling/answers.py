"""From the config to what labelling and mining need, and their results as JSON-like values.

Plain functions: nothing here loads a model or needs a server.
"""

from __future__ import annotations

import time
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from configs.labelling import Labels
from configs.schema import Config
from reranking.errors import ConfigError
from reranking.files import whole_file
from reranking.judgments.consensus import RELEVANT
from reranking.labelling.calibration import Calibration, Uncalibrated
from reranking.labelling.goal import Goal
from reranking.labelling.gradings import Gradings
from reranking.labelling.kappa import Agreement
from reranking.labelling.label_sets import (
    find_label_set,
    list_label_sets,
    read_labels,
    stale_labels,
    with_staleness,
    with_texts,
)
from reranking.labelling.rules import RuleReport
from reranking.labelling.run_labels import Bench, Labelled, bench, label_run
from reranking.runs.listing import find_run, newest_done
from reranking.runs.run import Run
from reranking.steps import step
from reranking.store import Database

_SHOWN = 20


def open_database(config: Config) -> Database:
    """The config's database, which must be there already."""
    return Database(config.database, must_exist=True)


def run_of(database: Database, config: Config, run: str | None) -> Run:
    """The named run, or the newest finished run of the config's pipeline."""
    return find_run(database, run) if run else newest_done(database, config)


def labels_of(config: Config) -> Labels:
    """The config's part `labels`, with its judgment lists named; ConfigError if there is none."""
    if config.labels is None:
        raise ConfigError("the config has no `labels`: give a label_set and rules")
    return config.labels.model_copy(update={"judgments": config.judgment_lists})


def relevant_of(config: Config) -> int:
    """The lowest grade that counts as relevant."""
    return RELEVANT if config.labels is None else config.labels.relevant


@step("label-run", 5)
def label_stored_run(config: Config, run: str | None = None) -> dict[str, Any]:
    """Store the labels unless they are there; what was found, JSON-like.

    Status `done`, `found` (the same label set was there already), or `not demonstrable`: the goal
    that should be applied is not reached, and nothing is labelled.
    """
    started = time.monotonic()
    database = open_database(config)
    of = bench(run_of(database, config, run), labels_of(config))
    values = bench_values(of)
    if of.labels.applied in of.refused:
        said = {"status": "not demonstrable", "label_set": None}
    else:
        said = _labelled_values(label_run(of), of)
    return {**said, **values, "seconds": round(time.monotonic() - started, 3)}


def _labelled_values(done: Labelled, of: Bench) -> dict[str, Any]:
    said = done.labels.column("label")
    return {
        "status": "done" if done.computed else "found",
        "label_set": done.label_set,
        "rule": done.rule.name,
        "labels": {
            "positive": pc.sum(pc.greater_equal(said, 1)).as_py() or 0,
            "negative": pc.sum(pc.equal(said, 0)).as_py() or 0,
            "unsure": said.null_count,
        },
        "conflicts": done.conflicts.num_rows,
        "first_conflicts": done.conflicts.slice(0, _SHOWN).to_pylist(),
        "agreement": None if done.against is None else agreement_values(done.against),
    }


def compare_rules(config: Config, run: str | None) -> dict[str, Any]:
    """What each rule would label, side by side, with the calibration; nothing is stored."""
    database = open_database(config)
    of = bench(run_of(database, config, run), labels_of(config))
    return {"status": "compared", **bench_values(of)}


def bench_values(of: Bench) -> dict[str, Any]:
    """Calibration, goal and rules as JSON-like values."""
    return {
        "run_id": of.scored.run.run_id,
        "reranker": of.scored.reranker,
        "query_set": of.scored.run.queries.name,
        "judgments": list(of.labels.judgments),
        "no_sample": of.left_out,
        "pairs": of.pairs.num_rows,
        "apply": of.labels.applied,
        "calibration": calibration_values(of.calibration),
        "goal": None if of.goal is None else goal_values(of.goal),
        "rules": [rule_values(report) for report in of.compare()],
        "refused": of.refused,
    }


def calibration_values(of: Calibration | Uncalibrated) -> dict[str, Any]:
    """A calibration's quality, or the reason why there is none."""
    if isinstance(of, Uncalibrated):
        return {"calibrated": False, **asdict(of)}
    quality = asdict(of.reliability)
    return {
        "calibrated": True,
        "method": of.method,
        "fingerprint": of.fingerprint,
        "judged": of.judged,
        "positives": of.positives,
        "queries": of.queries,
        "log_losses": of.log_losses,
        **quality,
    }


def goal_values(of: Goal) -> dict[str, Any]:
    """A precision goal and what its cut achieves on the queries that did not choose it."""
    return plain(of) | {"precision": str(of.precision), "recall": str(of.recall)}


def rule_values(of: RuleReport) -> dict[str, Any]:
    """What a rule labels; precision and recall carry their intervals."""
    counts = {name: getattr(of, name) for name in ("pairs", "positive", "negative", "unsure")}
    return {
        "rule": of.rule.name,
        "conditions": {k: v for k, v in of.rule.conditions.items() if k != "name" and v},
        **counts,
        "precision": of.precision_said,
        "recall": str(of.recall),
    }


def agreement_values(of: Agreement) -> dict[str, Any]:
    """Kappa and alpha with their intervals."""
    return {k: v for k, v in plain(of).items() if k != "confusion"}


def plain(value: object) -> dict[str, Any]:
    """A dataclass as nested dictionaries."""
    assert is_dataclass(value) and not isinstance(value, type)
    return {k: v for k, v in asdict(value).items()}


def agreement(config: Config, left: str, right: str | None, limit: int) -> dict[str, Any]:
    """How far two gradings agree, or with one judgment list alone, how far its raters do."""
    database = open_database(config)

    def bench_of(of: Run) -> Bench:
        return bench(of, labels_of(config))

    of_set = Gradings(database, config.queries.query_set, relevant_of(config), bench_of)
    if right is None:
        if not left.startswith("judgments:"):
            raise ConfigError(f"{left!r} needs a second grading to be compared with")
        return {"left": left, "right": None, **plain(of_set.raters(left))}
    both = of_set.compare(left, right, limit)
    return {
        "left": left,
        "right": right,
        "stale": {left: both.left.stale, right: both.right.stale},
        "binary": both.left.binary or both.right.binary,
        **agreement_values(both.figures),
        "confusion": both.confusion.to_pylist(),
        "disagreements": both.disagreements.to_pylist(),
    }


def label_sets(database: str) -> list[dict[str, Any]]:
    """All label sets, newest first, with how many of their labels are stale."""
    opened = Database(database, must_exist=True)
    return [_set_values(opened, row) for row in list_label_sets(opened)]


def _set_values(database: Database, row: dict[str, Any]) -> dict[str, Any]:
    labels = read_labels(database, row["label_set"])
    changed = stale_labels(labels, find_run(database, row["runs"][0]))
    said = labels.column("label").to_pylist()
    kept = ("label_set", "name", "current", "runs", "rule", "created_at")
    return {name: row[name] for name in kept} | {
        "labels": len(said),
        "positive": sum(1 for label in said if label),
        "unsure": sum(1 for label in said if label is None),
        "stale": changed.num_rows,
    }


def export_labels(database: str, name: str, out: Path, *, texts: bool = False) -> dict[str, Any]:
    """Write a label set with the column `stale` as Parquet; its rows, and the stale ones.

    With `texts` also the columns query and document, as the labelled run read them.
    """
    import pyarrow.parquet as pq

    opened = Database(database, must_exist=True)
    row = find_label_set(opened, name)
    labels = read_labels(opened, row["label_set"])
    run = find_run(opened, row["runs"][0])
    changed = stale_labels(labels, run)
    marked = with_staleness(labels, changed)
    with whole_file(out) as file:
        pq.write_table(with_texts(marked, run) if texts else marked, file)
    return {
        "label_set": row["label_set"],
        "rows": labels.num_rows,
        "stale": changed.num_rows,
        "file": str(out),
    }
