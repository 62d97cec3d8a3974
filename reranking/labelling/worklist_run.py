"""Work lists for people from finished runs, and their answers back into a judgment list."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import polars as pl
import pyarrow as pa

from reranking.arrow import frame
from reranking.corpus.corpus import texts_of
from reranking.corpus.ingest import write_rejects
from reranking.corpus.queries import read_queries
from reranking.errors import ConfigError, InputError, MissingResource
from reranking.fingerprints import digest
from reranking.judgments.consensus import LABELS_PREFIX
from reranking.labelling.exchange import (
    Answers,
    label_studio,
    label_studio_config,
    quepid_csv,
    read_label_studio,
    read_quepid,
)
from reranking.labelling.worklist import with_texts, work_list
from reranking.runs.run import Run, published_epoch
from reranking.schemas import JUDGMENTS
from reranking.sources.rows import Reject
from reranking.store import Database, equals

Order = Literal["verdict", "calibration"]
FORMATS = ("quepid", "label-studio")


def work(
    database: Database,
    plans: Sequence[Run],
    judgments: pa.Table,
    *,
    query_type: str | None = None,
    k: int = 10,
    order: Order = "verdict",
    pairs: pa.Table | None = None,
    limit: int | None = None,
) -> pa.Table:
    """The runs' unjudged top-k documents with their texts, the most useful first.

    `query_type` defaults to hybrid where all runs have it, else the first that they share.
    `pairs` are scored pairs, with a probability where there is a calibration; the order
    `calibration` needs them. `judgments` are those of the queries' present texts.
    """
    if len({plan.queries.name for plan in plans}) != 1:
        raise InputError("the runs have several query sets; a work list is for one of them")
    shown = shown_by(database, plans, query_type)
    listed = work_list(shown, judgments, k=k, pairs=pairs, order=order).slice(0, limit)
    return with_texts(
        listed, read_queries(database, plans[0].queries), _texts(database, plans, listed)
    )


def shown_by(
    database: Database, plans: Sequence[Run], query_type: str | None
) -> dict[str, pa.Table]:
    """What each run shows for a query type: query_id, doc_id and rank, by run id."""
    chosen = _query_type(plans, query_type)
    return {plan.run_id: _results(database, plan, chosen) for plan in plans}


def _query_type(plans: Sequence[Run], wanted: str | None) -> str:
    shared = [
        t for t in plans[0].search.query_types if all(t in p.search.query_types for p in plans)
    ]
    if wanted is None and shared:
        return "hybrid" if "hybrid" in shared else shared[0]
    if wanted not in shared:
        raise ConfigError(f"the runs share the query types {shared}, not {wanted!r}")
    return wanted


def _results(database: Database, plan: Run, query_type: str) -> pa.Table:
    if published_epoch(database, plan.run_id) is None:
        raise MissingResource(f"run {plan.run_id[:8]} is not finished: it has no results to judge")
    columns = ["query_id", "doc_id", "rank"]
    return database.read(plan.results_table, equals("query_type", query_type), columns)


def _texts(database: Database, plans: Sequence[Run], listed: pa.Table) -> pa.Table:
    """doc_id and text of the listed documents, at the first run's version that has them."""
    lacking = set(listed.column("doc_id").to_pylist())
    found: dict[str, str] = {}
    for plan in plans:
        found |= texts_of(database, plan.corpus, sorted(lacking - found.keys()))
    return pa.table(
        {"doc_id": pa.array(found, pa.string()), "text": pa.array(found.values(), pa.string())}
    )


def write_work(listed: pa.Table, form: str, out: Path) -> list[Path]:
    """Write the list in a judging tool's layout; the files written.

    label-studio: a JSON list, or one task per line where the name ends in .jsonl; beside it the
    labelling interface as NAME.xml.
    """
    if form not in FORMATS:
        raise ConfigError(f"format {form!r} is none of {', '.join(FORMATS)}")
    if form == "quepid":
        return [_write(out, "".join(quepid_csv(listed)))]
    lines = out.suffix == ".jsonl"
    interface = out.with_suffix(".xml")
    return [
        _write(out, "".join(label_studio(listed, lines=lines))),
        _write(interface, label_studio_config()),
    ]


def _write(path: Path, text: str) -> Path:
    """Write the file whole or not at all."""
    if not path.parent.is_dir():
        raise ConfigError(f"folder {path.parent} does not exist")
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8", newline="")
    partial.replace(path)
    return path


def import_answers(
    database: Database,
    path: Path,
    *,
    judgment_list: str,
    queries: pa.Table,
    rater: str | None,
    reserved: str,
) -> tuple[Answers, int]:
    """Add a judging tool's answers to a judgment list under their raters; with what was unchanged.

    A .csv is Quepid's, a .json or .jsonl Label Studio's. A rater's answer to a pair replaces that
    rater's earlier one; nobody else's row is touched. `reserved` is the source of the imported
    judgments, which no rater may be called. `queries` is the query set.
    """
    answers = _read(path, queries, rater)
    rows = frame(answers.judgments)
    _check_raters(rows["source"].unique().to_list(), reserved)
    known = frame(queries).select("query_set", "query_id")
    lost = rows.join(known, on="query_id", how="anti")
    reasons = [
        *answers.rejected,
        *(f"judges a query not in the set: {q}" for q in lost["query_id"]),
    ]
    stamped = rows.join(known, on="query_id").with_columns(judgment_list=pl.lit(judgment_list))
    now = datetime.now(UTC)
    stored = stamped.with_columns(
        pl.col("judged_at").fill_null(now).cast(pl.Datetime("us", "UTC"))
    ).select(JUDGMENTS.names)
    rejects = [Reject(n, None, reason, None) for n, reason in enumerate(reasons, start=1)]
    source_fp = digest(path.read_bytes()).hex()
    write_rejects(database, rejects, source_fp, now)
    if not stored.height:
        first = f": {reasons[0]}" if reasons else ", all ratings are empty"
        raise InputError(f"{path} has no usable answers{first}")
    before = _same(database, stored)
    if before < stored.height:
        database.merge("judgments", stored.to_arrow(), JUDGMENTS)
    return Answers(stored.to_arrow(), reasons), before


def _same(database: Database, wanted: pl.DataFrame) -> int:
    """How many of the answers are stored already, as they are."""
    keys = ["judgment_list", "query_id", "query_hash", "doc_id", "relevance", "source"]
    rows = database.read("judgments", equals("judgment_list", wanted["judgment_list"][0]))
    if not rows.num_rows:
        return 0
    return wanted.join(frame(rows), on=keys, how="semi").height


def _read(path: Path, queries: pa.Table, rater: str | None) -> Answers:
    if not path.is_file():
        raise MissingResource(f"no file {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error}") from error
    if path.suffix == ".csv":
        if not rater:
            raise ConfigError("a Quepid CSV does not say who rated: give --rater NAME")
        return read_quepid(text, queries, rater)
    if path.suffix in (".json", ".jsonl"):
        if rater:
            raise ConfigError("Label Studio's export names its raters itself: leave out --rater")
        return read_label_studio(text)
    raise ConfigError(f"{path.name}: expected .csv (Quepid) or .json, .jsonl (Label Studio)")


def _check_raters(names: Sequence[str], reserved: str) -> None:
    for name in names:
        if name == reserved or name.startswith(LABELS_PREFIX):
            raise ConfigError(
                f"no rater can be called {name!r}: it is the source of imported judgments or of "
                "labels, which people's answers must not overwrite"
            )
