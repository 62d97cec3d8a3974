"""Label sets as they are stored: labels with their evidence, found again by what they are made of.

A label set is its inputs: its id is NAME@DIGEST, the digest of run, rule and calibration. All its
labels are appended in one commit; then its row in `label_sets` is written, which is the done-mark.
The newest row of a name is the name's current label set: a relabelling takes effect in that one
commit, and the same inputs are found and not computed again. What it replaces is removed after it.
Two racing processes may append the same labels twice; readers take one per pair.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import polars as pl
import pyarrow as pa

from reranking.arrow import frame
from reranking.corpus.corpus import (
    Corpus,
    columns_of,
    hashes_of,
    pin_managed,
    string_ids,
    texts_of,
)
from reranking.corpus.queries import read_queries
from reranking.errors import MissingResource
from reranking.fingerprints import canonical, fingerprint
from reranking.labelling.conflicts import stale
from reranking.runs.run import Run
from reranking.schemas import LABEL_SETS, LABELS
from reranking.store import Database, equals, one_of

LABEL_VERSION = 1  # bumped by hand when our code changes how labels follow from scores
TABLE, ROWS = "label_sets", "labels"
_DIGITS = 12


def label_set_id(name: str, inputs: Mapping[str, object]) -> str:
    """NAME@DIGEST: the label set that these inputs name."""
    return f"{name}@{fingerprint({'label_version': LABEL_VERSION, **inputs})[:_DIGITS]}"


def list_label_sets(database: Database) -> list[dict[str, Any]]:
    """The rows of `label_sets`, newest first, with `name` and whether it is the name's current."""
    rows: list[dict[str, Any]] = database.read(TABLE).to_pylist()
    rows.sort(key=lambda row: (row["created_at"], row["label_set"]), reverse=True)
    seen: set[str] = set()
    for row in rows:
        row["name"] = row["label_set"].partition("@")[0]
        row["current"] = row["name"] not in seen
        seen.add(row["name"])
    return rows


def find_label_set(database: Database, name: str) -> dict[str, Any]:
    """The current label set of a name, or the one of a full id; MissingResource if there is none"""
    rows = list_label_sets(database)
    for row in rows:
        if name == row["label_set"] or (name == row["name"] and row["current"]):
            return row
    known = ", ".join(row["label_set"] for row in rows[:10]) or "none"
    raise MissingResource(f"no label set {name!r} in {database.uri} (newest: {known})")


def stored_label_set(database: Database, label_set: str) -> dict[str, Any] | None:
    """The row of a full id, None where it was never finished."""
    return next((r for r in list_label_sets(database) if r["label_set"] == label_set), None)


def is_whole(database: Database, row: Mapping[str, Any]) -> bool:
    """Whether the labels that a row of `label_sets` counts are there."""
    return bool(
        _rows(database, row["label_set"]).height == json.loads(row["calibration"])["labels"]
    )


def store_label_set(
    database: Database,
    label_set: str,
    labels: pa.Table,
    *,
    runs: Sequence[str],
    rule: str,
    evidence: Mapping[str, object],
) -> None:
    """Append the labels (LABELS without label_set) in one commit, mark the set, drop older ones.

    `evidence` becomes the JSON column `calibration`, with the number of labels.
    """
    row = {"label_set": label_set, "runs": list(runs), "rule": rule}
    row["calibration"] = canonical({**evidence, "labels": labels.num_rows})
    if not is_whole(database, row):  # else a killed process left them, whole and the same
        names = pa.array([label_set] * labels.num_rows, pa.string())
        database.delete(ROWS, equals("label_set", label_set))
        database.append(ROWS, labels.append_column("label_set", names))
    marked = pa.Table.from_pylist([row | {"created_at": datetime.now(UTC)}], LABEL_SETS)
    database.merge(TABLE, marked, LABEL_SETS)
    _drop_superseded(database, label_set.partition("@")[0])


def _drop_superseded(database: Database, name: str) -> None:
    """Remove the label sets that the name's current one has replaced."""
    rows = [r for r in list_label_sets(database) if r["name"] == name and not r["current"]]
    old = [row["label_set"] for row in rows]
    if old:
        database.delete(TABLE, one_of("label_set", old))
        database.delete(ROWS, one_of("label_set", old))


def read_labels(database: Database, label_set: str) -> pa.Table:
    """The labels of a full id in (query_id, doc_id) order: the schema LABELS.

    Raises MissingResource where the label set was replaced meanwhile or its labels are gone.
    """
    row = stored_label_set(database, label_set)
    labels = _rows(database, label_set)
    if row is None or labels.height != json.loads(row["calibration"])["labels"]:
        raise MissingResource(
            f"the labels of {label_set} are gone from {database.uri}: they were replaced or "
            "deleted; start `rescore label` again, or read the name's current label set"
        )
    return labels.to_arrow()


def _rows(database: Database, label_set: str) -> pl.DataFrame:
    """The stored labels, one per pair; LABELS."""
    rows = database.read(ROWS, equals("label_set", label_set))
    current = frame(rows if rows.num_columns else LABELS.empty_table())
    unique = current.unique(["query_id", "doc_id"], keep="first")
    return unique.sort("query_id", "doc_id").select(LABELS.names)


def stale_labels(labels: pa.Table, run: Run) -> pa.Table:
    """The labels whose texts have changed since: query_id, doc_id, label and the reason.

    `run` is the one whose scores were labelled; its query set and its documents table are
    read as they are now.
    """
    queries = run.database.read("queries", equals("query_set", run.queries.name))
    hashes = document_hashes(run, labels.column("doc_id").unique().to_pylist())
    documents = pa.table(
        {
            "doc_id": pa.array(list(hashes), pa.string()),
            "text_hash": pa.array(list(hashes.values()), pa.binary(16)),
        }
    )
    return stale(labels, queries, documents)


def document_hashes(run: Run, doc_ids: Sequence[str]) -> dict[str, bytes]:
    """The present hash of what the reranker reads of each document, by id; absent where gone."""
    database, corpus = run.database, run.corpus
    if corpus.managed:
        version = pin_managed(database, corpus.table, corpus.scored).version
    else:
        version = int(corpus.database(database).need(corpus.table).version)
    return hashes_by_id(database, replace(corpus, version=version), doc_ids)


def hashes_by_id(database: Database, corpus: Corpus, doc_ids: Sequence[str]) -> dict[str, bytes]:
    """The hash of what the reranker reads of each document of the pinned version, by id."""
    column = corpus.hash_column or corpus.scored
    found: dict[str, bytes] = {}
    for batch in columns_of(database, corpus, doc_ids, [column]):
        ids = string_ids(batch.column(corpus.id), corpus)
        found.update(zip(ids, hashes_of(batch.column(column), corpus), strict=True))
    return found


def with_staleness(labels: pa.Table, changed: pa.Table) -> pa.Table:
    """The labels with the column `stale`: why its texts are others now, null where they are not."""
    reasons = frame(changed).select("query_id", "doc_id", pl.col("reason").alias("stale"))
    keys = ["query_id", "doc_id"]
    return frame(labels).join(reasons, on=keys, how="left", maintain_order="left").to_arrow()


def with_texts(labels: pa.Table, run: Run) -> pa.Table:
    """Return the labels with the columns query and document: the texts that the run scored."""
    queries = read_queries(run.database, run.queries).select(["query_id", "text"]).to_pydict()
    asked = dict(zip(queries["query_id"], queries["text"], strict=True))
    doc_ids = labels.column("doc_id").to_pylist()
    texts = texts_of(run.database, run.corpus, sorted(set(doc_ids)))
    for name, ids, known in (
        ("query", labels.column("query_id").to_pylist(), asked),
        ("document", doc_ids, texts),
    ):
        values = pa.array([known.get(one) for one in ids], pa.string())
        labels = labels.append_column(name, values)
    return labels
