"""Training data from a finished run's stored candidates and scores.

Mining goes chunk by chunk: what is held is one chunk's pairs and texts, beside the run's scores. A
folder of training files appears whole: it is written under another name and renamed at the end.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from configs.labelling import Training
from reranking.arrow import frame
from reranking.corpus.corpus import texts_of
from reranking.errors import ConfigError, InputError
from reranking.files import whole_file, whole_folder
from reranking.fingerprints import canonical
from reranking.judgments.consensus import consensus, human
from reranking.judgments.lists import current_wording
from reranking.labelling.calibration import Calibration, with_probability
from reranking.labelling.conflicts import LABEL_SOURCE, prefer_human
from reranking.labelling.label_sets import find_label_set, hashes_by_id, read_labels, stale_labels
from reranking.labelling.mining import Mined, Miner, MiningReport
from reranking.labelling.scored import ScoredRun
from reranking.labelling.training import (
    PROVENANCE_FOLDER,
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
_MINING = {
    *("range_min", "range_max", "max_score", "min_score", "absolute_margin", "relative_margin"),
    *("num_negatives", "sampling_strategy", "seed", "on", "duplicate_overlap"),
}
"""The settings that decide what is mined; the others decide how it is written."""


@dataclass(frozen=True)
class MiningInputs:
    """What a run's negatives are mined from, besides its scored pairs.

    `judgments` name the positives (grade `relevant` or above) and the judged negatives; positive
    and unsure rows of `labels` are no negatives. `calibration` gives pairs their probability.
    """

    training: Training
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


def labels_now(name: str, scored: ScoredRun) -> tuple[str, pa.Table]:
    """A label set's full id and its labels, without those of texts that are others now."""
    database = scored.run.database
    row = find_label_set(database, name)
    labels = read_labels(database, row["label_set"])
    changed = frame(stale_labels(labels, scored.run))
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


def answerable(scored: ScoredRun, judgments: pa.Table) -> pa.Table:
    """The judgments of the run's queries as they are worded, on documents that the run knows."""
    held = frame(current_wording(judgments, scored.queries))
    known = _hashes(scored, held["doc_id"].unique().to_list())
    kept = held.filter(pl.col("doc_id").is_in(list(known)))
    if kept.height < held.height:
        log.warning("%d judgments are on documents that are gone", held.height - kept.height)
    return kept.to_arrow()


def mined_blocks(scored: ScoredRun, inputs: MiningInputs, miner: Miner) -> Iterator[Mined]:
    """The positives and negatives of one chunk of queries after the other."""
    labels = None if inputs.labels is None else frame(inputs.labels)
    for number in scored.run.chunks:
        pairs = scored.chunk(number)
        if inputs.calibration is not None:
            pairs = with_probability(pairs, inputs.calibration, scored.reranker)
        block = None
        if labels is not None:
            queries = frame(pairs).select("query_id").unique()
            block = labels.join(queries, on="query_id", how="semi").to_arrow()
        yield miner.mine(pairs, block)


def miner_of(scored: ScoredRun, inputs: MiningInputs) -> Miner:
    """A miner that finds near-duplicates in the run's own version of the documents."""
    if inputs.training.on == "probability" and inputs.calibration is None:
        raise InputError(
            "mining on probability needs a calibration, and the judgments allow none: mine on "
            "score, or name a label set that has a calibration"
        )
    database, corpus = scored.run.database, scored.run.corpus
    return Miner(
        inputs.training,
        inputs.judgments,
        relevant=inputs.relevant,
        texts=lambda ids: texts_of(database, corpus, ids),
    )


def mine_run(scored: ScoredRun, inputs: MiningInputs, out: Path | None = None) -> MiningReport:
    """What mining finds; with `out` the negatives, ids and scores only, as a Parquet file."""
    miner = miner_of(scored, inputs)
    if out is None:
        for _ in mined_blocks(scored, inputs, miner):
            pass
        return miner.report()
    with whole_file(out) as file, ExitStack() as open_writer:
        writer: pq.ParquetWriter | None = None
        for block in mined_blocks(scored, inputs, miner):
            if writer is None:
                writer = open_writer.enter_context(pq.ParquetWriter(file, block.negatives.schema))
            writer.write_table(block.negatives)
    return miner.report()


def export_training(
    scored: ScoredRun,
    inputs: MiningInputs,
    folder: Path,
    files: Files,
) -> TrainingFiles:
    """Write training files of a split each into a folder that is new or was written like this.

    lance: one Lance table per split in the folder; else SPLIT.parquet or SPLIT.jsonl. Row by row
    provenance is under `__provenance__`, with the mining's report.
    """
    if files not in get_args(Files):
        raise ConfigError(f"files {files!r} are none of {', '.join(get_args(Files))}")
    miner, settings = miner_of(scored, inputs), inputs.training
    queries = dict(zip(*(scored.queries[n].to_pylist() for n in ("query_id", "text")), strict=True))
    chosen = assign_splits(_positives(scored, inputs), queries, settings.splits, seed=settings.seed)
    rows = dict.fromkeys(settings.splits, 0)
    skipped = 0
    with _new_folder(folder) as partial:
        kind: Literal["parquet", "jsonl"] = "jsonl" if files == "jsonl" else "parquet"
        with TrainingWriter(partial, kind, _provenance(scored, inputs)) as writer:
            for block in mined_blocks(scored, inputs, miner):
                texts = texts_of(scored.run.database, scored.run.corpus, _documents(block))
                for split in settings.splits:
                    made = examples(
                        of_split(block, chosen, split),
                        settings.output_format,
                        num_negatives=settings.num_negatives,
                        queries=queries,
                        documents=texts,
                        output_scores=settings.output_scores,
                    )
                    writer.write(split, made)
                    rows[split] += made.data.num_rows
                    skipped += made.skipped
        if not any(rows.values()):
            raise InputError(
                "no example came out: no query has a positive and a negative; `rescore mine` says "
                "how many candidates each filter dropped"
            )
        if empty := [name for name, share in settings.splits.items() if share and not rows[name]]:
            raise InputError(
                f"no example in {', '.join(empty)}: none of their queries has a positive and a "
                "negative; give them a larger share in training.splits, or leave them out"
            )
        if files == "lance":
            _as_lance(partial)
        report = json.dumps(asdict(miner.report()), indent=1)
        (partial / PROVENANCE_FOLDER / REPORT).write_text(report, "utf-8")
    return TrainingFiles(rows, skipped, miner.report())


def _positives(scored: ScoredRun, inputs: MiningInputs) -> pa.Table:
    """query_id, doc_id and doc_hash of all positives of the run's queries."""
    grades = frame(consensus(current_wording(inputs.judgments, scored.queries)))
    positive = grades.filter(pl.col("relevance") >= inputs.relevant)
    # under every id of the query's text: the miner takes one of them
    ids = frame(scored.queries).select("query_id", pl.col("text_hash").alias("query_hash"))
    pooled = positive.select("query_hash", "doc_id").unique()
    positive = pooled.join(ids, on="query_hash").select(_KEYS).sort(_KEYS)
    hashes = _hashes(scored, positive["doc_id"].unique().to_list())
    listed = pl.Series("doc_hash", [hashes.get(d) for d in positive["doc_id"]], pl.Binary)
    return positive.with_columns(listed).to_arrow()


def _hashes(scored: ScoredRun, doc_ids: Sequence[str]) -> dict[str, bytes]:
    """The text hash of each document that the run's version has, by id."""
    return hashes_by_id(scored.run.database, scored.run.corpus, doc_ids)


def _documents(block: Mined) -> list[str]:
    tables = (block.positives, block.negatives)
    return sorted({doc for table in tables for doc in table.column("doc_id").to_pylist()})


def _provenance(scored: ScoredRun, inputs: MiningInputs) -> dict[str, str]:
    """What the parallel files say of where the examples come from."""
    calibration = inputs.calibration
    return {
        "run_id": scored.run.run_id,
        "reranker": scored.reranker,
        "documents_version": str(scored.run.corpus.version),
        "mining": canonical(inputs.training.model_dump(include=_MINING)),
        "label_set": inputs.label_set or "",
        "calibration": "" if calibration is None else calibration.fingerprint,
    }


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """A folder that takes its name when the block ends, in place of an older one of the kind."""
    if folder.exists() and any(folder.iterdir()) and not (folder / PROVENANCE_FOLDER).is_dir():
        raise ConfigError(f"folder {folder} holds other files: name a new one")
    with whole_folder(folder) as partial:
        yield partial


def _as_lance(folder: Path) -> None:
    """Turn the folder's Parquet files into Lance tables of their names, one commit each."""
    database = Database(str(folder))
    for path in sorted(folder.glob("*.parquet")):
        with pq.ParquetFile(path) as file:
            batches = functools.partial(_row_groups, file)
            database.publish(path.stem, file.schema_arrow, batches, replace=False)
        path.unlink()


def _row_groups(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    """The file's row groups one by one: several together may exceed one Arrow array."""
    for number in range(file.num_row_groups):
        yield from file.read_row_group(number).to_batches()
