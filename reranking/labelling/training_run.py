"""Training data from a finished run's stored candidates and scores.

Mining goes chunk by chunk: what is held is one chunk's pairs and texts, beside the run's scores. A
folder of training files appears whole: it is written under another name and renamed at the end.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from reranking.arrow import frame
from reranking.corpus.corpus import texts_of
from reranking.errors import ConfigError, InputError
from reranking.fingerprints import canonical
from reranking.judgments.consensus import consensus, human
from reranking.judgments.lists import current_wording
from reranking.labelling.calibration import Calibration, with_probability
from reranking.labelling.conflicts import LABEL_SOURCE, prefer_human
from reranking.labelling.label_sets import find_label_set, hashes_by_id, read_labels, stale_labels
from reranking.labelling.mining import Mined, Miner, Mining, MiningReport
from reranking.labelling.scored import ScoredRun
from reranking.labelling.training import (
    PROVENANCE_FOLDER,
    OutputFormat,
    TrainingWriter,
    assign_splits,
    examples,
    of_split,
)
from reranking.store import Database

log = logging.getLogger(__name__)

Files = Literal["parquet", "jsonl", "lance"]
REPORT = "mining.json"
_KEYS = ["query_id", "doc_id"]


@dataclass(frozen=True)
class MiningInputs:
    """What a run's negatives are mined from, besides its scored pairs.

    `judgments` name the positives (grade `relevant` or above) and the judged negatives; positive
    and unsure rows of `labels` are no negatives. `calibration` gives pairs their probability.
    """

    mining: Mining
    judgments: pa.Table
    relevant: int
    calibration: Calibration | None = None
    labels: pa.Table | None = None
    label_set: str | None = None


@dataclass(frozen=True)
class TrainingFiles:
    """What an export wrote: rows per split, examples left out, and the mining's report."""

    rows: dict[str, int]
    skipped: int
    report: MiningReport


def labels_now(database: Database, name: str, run: ScoredRun) -> tuple[str, pa.Table]:
    """A label set's full id and its labels, without those of texts that are others now."""
    row = find_label_set(database, name)
    labels = read_labels(database, row["label_set"])
    changed = frame(stale_labels(database, labels, run.plan))
    return row["label_set"], frame(labels).join(changed, on=_KEYS, how="anti").to_arrow()


def with_labels(
    judgments: pa.Table, labels: pa.Table, queries: pa.Table, *, positives_as: int | None = None
) -> pa.Table:
    """People's judgments, and labels as grades (source `label`) where nobody judged.

    With `positives_as` positive labels only, each with this grade: a label of 0 is no judged
    negative, and a binary label of 1 means relevant on any scale of grades.
    """
    held = current_wording(judgments, queries)
    added = frame(prefer_human(labels, held)).filter(pl.col("source") == LABEL_SOURCE)
    if positives_as is not None:
        added = added.filter(pl.col("relevance") >= 1).with_columns(
            pl.lit(positives_as, pl.Int32).alias("relevance")
        )
    hashes = frame(queries).select("query_id", pl.col("text_hash").alias("query_hash"))
    columns = ["query_id", "query_hash", "doc_id", "relevance", "source"]
    rows = human(frame(held)).select(columns)
    return pl.concat([rows, added.join(hashes, on="query_id").select(columns)]).to_arrow()


def answerable(run: ScoredRun, judgments: pa.Table) -> pa.Table:
    """The judgments of the run's queries as they are worded, on documents that the run knows."""
    held = frame(current_wording(judgments, run.queries))
    known = _hashes(run, held["doc_id"].unique().to_list())
    kept = held.filter(pl.col("doc_id").is_in(list(known)))
    if kept.height < held.height:
        log.warning("%d judgments are on documents that are gone", held.height - kept.height)
    return kept.to_arrow()


def mined_blocks(run: ScoredRun, inputs: MiningInputs, miner: Miner) -> Iterator[Mined]:
    """The positives and negatives of one chunk of queries after the other."""
    labels = None if inputs.labels is None else frame(inputs.labels)
    for number in run.plan.chunks:
        pairs = run.chunk(number)
        if inputs.calibration is not None:
            pairs = with_probability(pairs, inputs.calibration, run.reranker)
        block = None
        if labels is not None:
            queries = frame(pairs).select("query_id").unique()
            block = labels.join(queries, on="query_id", how="semi").to_arrow()
        yield miner.mine(pairs, block)


def miner_of(run: ScoredRun, inputs: MiningInputs) -> Miner:
    """A miner that finds near-duplicates in the run's own version of the documents."""
    if inputs.mining.on == "probability" and inputs.calibration is None:
        raise InputError(
            "mining on probability needs a calibration, and the judgments allow none: mine on "
            "score, or name a label set that has a calibration"
        )
    database, corpus = run.database, run.plan.corpus
    return Miner(
        inputs.mining,
        inputs.judgments,
        relevant=inputs.relevant,
        texts=lambda ids: texts_of(database, corpus, ids),
    )


def mine_run(run: ScoredRun, inputs: MiningInputs, out: Path | None = None) -> MiningReport:
    """What mining finds; with `out` the negatives, ids and scores only, as a Parquet file."""
    miner = miner_of(run, inputs)
    if out is None:
        for _ in mined_blocks(run, inputs, miner):
            pass
        return miner.report()
    partial = out.with_name(f".{out.name}.partial")
    writer: pq.ParquetWriter | None = None
    try:
        for block in mined_blocks(run, inputs, miner):
            writer = writer or pq.ParquetWriter(partial, block.negatives.schema)
            writer.write_table(block.negatives)
    finally:
        if writer is not None:
            writer.close()
    partial.replace(out)
    return miner.report()


def export_training(
    run: ScoredRun,
    inputs: MiningInputs,
    folder: Path,
    *,
    output_format: OutputFormat,
    files: Files,
    splits: Mapping[str, float],
    output_scores: bool = False,
    seed: int = 0,
) -> TrainingFiles:
    """Write training files of a split each into a folder that is new or was written like this.

    lance: one Lance table per split in the folder; else SPLIT.parquet or SPLIT.jsonl. Row by row
    provenance is under `__provenance__`, with the mining's report.
    """
    if files not in get_args(Files):
        raise ConfigError(f"files {files!r} are none of {', '.join(get_args(Files))}")
    miner = miner_of(run, inputs)
    queries = dict(zip(*(run.queries[n].to_pylist() for n in ("query_id", "text")), strict=True))
    chosen = assign_splits(_positives(run, inputs), queries, splits, seed=seed)
    rows = dict.fromkeys(splits, 0)
    skipped = 0
    with _new_folder(folder) as partial:
        kind: Literal["parquet", "jsonl"] = "jsonl" if files == "jsonl" else "parquet"
        with TrainingWriter(partial, kind, _provenance(run, inputs)) as writer:
            for block in mined_blocks(run, inputs, miner):
                texts = texts_of(run.database, run.plan.corpus, _documents(block))
                for split in splits:
                    made = examples(
                        of_split(block, chosen, split),
                        output_format,
                        num_negatives=inputs.mining.num_negatives,
                        queries=queries,
                        documents=texts,
                        output_scores=output_scores,
                    )
                    writer.write(split, made)
                    rows[split] += made.data.num_rows
                    skipped += made.skipped
        if not any(rows.values()):
            raise InputError(
                "no example came out: no query has a positive and a negative; `rescore mine` says "
                "how many candidates each filter dropped"
            )
        if empty := [name for name in splits if not rows[name]]:
            log.warning("no example in %s: queries that share an answer stay together", empty)
        if files == "lance":
            _as_lance(partial)
        report = json.dumps(asdict(miner.report()), indent=1)
        (partial / PROVENANCE_FOLDER / REPORT).write_text(report, "utf-8")
    return TrainingFiles(rows, skipped, miner.report())


def _positives(run: ScoredRun, inputs: MiningInputs) -> pa.Table:
    """query_id, doc_id and doc_hash of all positives of the run's queries."""
    grades = frame(consensus(current_wording(inputs.judgments, run.queries)))
    positive = grades.filter(pl.col("relevance") >= inputs.relevant).select(_KEYS)
    hashes = _hashes(run, positive["doc_id"].unique().to_list())
    listed = pl.Series("doc_hash", [hashes.get(d) for d in positive["doc_id"]], pl.Binary)
    return positive.with_columns(listed).to_arrow()


def _hashes(run: ScoredRun, doc_ids: Sequence[str]) -> dict[str, bytes]:
    """The text hash of each document that the run's version has, by id."""
    return hashes_by_id(run.database, run.plan.corpus, doc_ids)


def _documents(block: Mined) -> list[str]:
    tables = (block.positives, block.negatives)
    return sorted({doc for table in tables for doc in table.column("doc_id").to_pylist()})


def _provenance(run: ScoredRun, inputs: MiningInputs) -> dict[str, str]:
    """What the parallel files say of where the examples come from."""
    calibration = inputs.calibration
    return {
        "run_id": run.plan.run_id,
        "reranker": run.reranker,
        "documents_version": str(run.plan.corpus.version),
        "mining": canonical(asdict(inputs.mining)),
        "label_set": inputs.label_set or "",
        "calibration": "" if calibration is None else calibration.fingerprint,
    }


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder that takes its name when the block ends, in place of an older one of the kind."""
    if folder.exists() and any(folder.iterdir()) and not (folder / PROVENANCE_FOLDER).is_dir():
        raise ConfigError(f"folder {folder} holds other files: name a new one")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _as_lance(folder: Path) -> None:
    """Turn the folder's Parquet files into Lance tables of their names, one commit each."""
    database = Database(str(folder))
    for path in sorted(folder.glob("*.parquet")):
        file = pq.ParquetFile(path)
        database.publish(path.stem, file.schema_arrow, file.iter_batches, replace=False)
        file.close()
        path.unlink()
