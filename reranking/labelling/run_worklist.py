"""Work lists for people from finished runs, and their answers back into a judgment list."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import polars as pl
import pyarrow as pa

from reranking.arrow import frame
from reranking.corpus.corpus import Corpus, columns_of, string_ids, texts_of
from reranking.corpus.queries import read_queries
from reranking.corpus.rejects import write_rejects
from reranking.errors import ConfigError, InputError, MissingResource
from reranking.files import write_text
from reranking.fingerprints import digest
from reranking.judgments.consensus import LABELS_PREFIX
from reranking.judgments.lists import stored_list
from reranking.judgments.store import add_judgments
from reranking.judgments.texts import loose
from reranking.labelling.label_sets import hashes_by_id
from reranking.labelling.label_studio import (
    label_studio,
    label_studio_config,
    read_label_studio,
)
from reranking.labelling.ratings import GRADES, Answers, shown
from reranking.labelling.sheets import quepid_csv, read_ratings, sheet_csv
from reranking.labelling.worklist import with_texts, work_list
from reranking.runs.run import Run, published_epoch
from reranking.schemas import JUDGMENTS
from reranking.sources.rows import Reject
from reranking.store import Database, equals

Order = Literal["verdict", "calibration"]
FORMATS = ("csv", "quepid", "label-studio")


def work(
    runs: Sequence[Run],
    judgments: pa.Table,
    *,
    query_type: str | None = None,
    k: int = 10,
    order: Order = "verdict",
    pairs: pa.Table | None = None,
    cut: float | None = None,
    limit: int | None = None,
) -> pa.Table:
    """The runs' unjudged top-k documents with their texts, the most useful first.

    `query_type` defaults to hybrid where all runs have it, else the first that they share.
    `pairs` are the scored pairs that the order `calibration` spreads over, `cut` the raw score
    around which it asks most. `judgments` are those of the queries' present texts. Columns: those
    of `work_list`, query, query_hash, title (null if the documents have none) and document.
    """
    if len({run.queries.name for run in runs}) != 1:
        raise InputError("the runs have several query sets; a work list is for one of them")
    shown = shown_by(runs, query_type)
    listed = work_list(shown, judgments, k=k, pairs=pairs, order=order, cut=cut)
    listed = listed.slice(0, limit)
    queries = read_queries(runs[0].database, runs[0].queries)
    return with_texts(listed, queries, _texts(runs, listed))


def shown_by(runs: Sequence[Run], query_type: str | None) -> dict[str, pa.Table]:
    """What each run shows for a query type: query_id, doc_id and rank, by run id."""
    chosen = _query_type(runs, query_type)
    return {run.run_id: _results(run, chosen) for run in runs}


def _query_type(runs: Sequence[Run], wanted: str | None) -> str:
    shared = [t for t in runs[0].search.query_types if all(t in r.search.query_types for r in runs)]
    if wanted is None and shared:
        return "hybrid" if "hybrid" in shared else shared[0]
    if wanted not in shared:
        raise ConfigError(f"the runs share the query types {shared}, not {wanted!r}")
    return wanted


def _results(run: Run, query_type: str) -> pa.Table:
    if published_epoch(run.database, run.run_id) is None:
        raise MissingResource(f"run {run.run_id[:8]} is not finished: it has no results to judge")
    columns = ["query_id", "doc_id", "rank"]
    return run.database.read(run.results_table, equals("query_type", query_type), columns)


def _texts(runs: Sequence[Run], listed: pa.Table) -> pa.Table:
    """doc_id, text and title of the listed documents, at the first run's version that has them."""
    lacking = set(listed.column("doc_id").to_pylist())
    texts: dict[str, str] = {}
    titles: dict[str, str | None] = {}
    for run in runs:
        wanted = sorted(lacking - texts.keys())
        texts |= texts_of(run.database, run.corpus, wanted)
        titles |= _titles(run, wanted)
    columns = {
        "doc_id": list(texts),
        "text": list(texts.values()),
        "title": [titles.get(doc_id) for doc_id in texts],
    }
    return pa.table(columns, schema=pa.schema([(name, pa.string()) for name in columns]))


def _titles(run: Run, doc_ids: Sequence[str]) -> dict[str, str | None]:
    """The documents' titles by id; none if their table has no such column of text."""
    corpus = run.corpus
    schema = corpus.opened(run.database).schema
    at = schema.get_field_index("title")
    if at < 0 or schema.field(at).type not in (pa.string(), pa.large_string()):
        return {}
    titles: dict[str, str | None] = {}
    for batch in columns_of(run.database, corpus, doc_ids, ["title"]):
        ids = string_ids(batch.column(corpus.id), corpus)
        titles.update(zip(ids, batch.column("title").to_pylist(), strict=True))
    return titles


def write_work(
    listed: pa.Table, form: str, out: Path, grades: Sequence[int] = GRADES
) -> list[Path]:
    """Write the list as a sheet for people or in a judging tool's layout; the files written.

    csv: query, docid and an empty rating, with title, text and the scale beside them. quepid: the
    first three alone. label-studio: a JSON list, or one task per line if the name ends in .jsonl;
    beside it the labelling interface as NAME.xml.
    """
    if form not in FORMATS:
        raise ConfigError(f"format {form!r} is none of {', '.join(FORMATS)}")
    if form == "csv":
        return [write_text(out, sheet_csv(listed, grades))]
    if form == "quepid":
        return [write_text(out, quepid_csv(listed))]
    lines = out.suffix == ".jsonl"
    interface = out.with_suffix(".xml")
    return [
        write_text(out, label_studio(listed, grades, lines=lines)),
        write_text(interface, [label_studio_config(grades)]),
    ]


def list_grades(database: Database, judgment_list: str, query_set: str) -> tuple[int, ...]:
    """Return the scale of a judgment list: 0 to 3, widened to the grades that are stored in it."""
    rows = stored_list(database, judgment_list)
    own = frame(rows).filter(pl.col("query_set") == query_set)["relevance"].unique().to_list()
    return tuple(range(min(*GRADES, *own), max(*GRADES, *own) + 1))


def import_answers(
    database: Database,
    path: Path,
    *,
    judgment_list: str,
    queries: pa.Table,
    corpus: Corpus,
    raters: Sequence[str],
    reserved: str,
    grades: Sequence[int] = GRADES,
) -> tuple[Answers, int]:
    """Add a judging tool's answers to a judgment list under their raters; with what was unchanged.

    A .csv is a sheet or Quepid's, a .json or .jsonl Label Studio's. A rater's answer to a pair
    replaces that rater's earlier one; nobody else's row is touched. `reserved` is the source of the
    imported judgments, which no rater may be called. `queries` is the query set, `corpus` the
    documents: an answer about a query or document that is not among them is a reject.
    """
    answers = _read(path, queries, raters, grades)
    _check_raters(answers.judgments.column("source").unique().to_pylist(), reserved)
    rows, unknown = _of_corpus(frame(answers.judgments), database, corpus)
    known = frame(queries).select("query_set", "query_id")
    lost = rows.join(known, on="query_id", how="anti")
    reasons = [
        *answers.rejected,
        *(f"judges a query not in the set: {shown(q)}" for q in lost["query_id"]),
        *(
            f"judges a document that does not exist: {shown(d)}; if a spreadsheet changed the id, "
            "keep the column docid as text"
            for d in unknown
        ),
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
    answered = stored.to_arrow()
    return Answers(answered, reasons), add_judgments(database, judgment_list, answered)


def _of_corpus(
    rows: pl.DataFrame, database: Database, corpus: Corpus
) -> tuple[pl.DataFrame, list[str]]:
    """The answers about documents that exist, and the ids of the others.

    An id that exists only without the blanks around it is meant to be that one.
    """
    given = rows["doc_id"].unique(maintain_order=True).to_list()
    bare = {doc_id: loose(doc_id) for doc_id in given}
    existing = hashes_by_id(database, corpus, sorted({*given, *bare.values()})).keys()
    real = {d: d if d in existing else bare[d] for d in given if {d, bare[d]} & existing}
    kept = rows.filter(pl.col("doc_id").is_in(list(real))).with_columns(
        pl.col("doc_id").replace(real)
    )
    keys = ["query_id", "doc_id", "source"]
    return kept.unique(keys, keep="first", maintain_order=True), [
        doc_id for doc_id in given if doc_id not in real
    ]


def _read(path: Path, queries: pa.Table, raters: Sequence[str], grades: Sequence[int]) -> Answers:
    if not path.is_file():
        raise MissingResource(f"no file {path}")
    # what is no UTF-8 becomes lone surrogates, for which the row and not the file is refused
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    if path.suffix == ".csv":
        if not raters:
            raise ConfigError("a CSV does not say who rated: give --rater NAME")
        return read_ratings(text, queries, raters, grades)
    if path.suffix in (".json", ".jsonl"):
        if raters:
            raise ConfigError("Label Studio's export names its raters itself: leave out --rater")
        return read_label_studio(text, grades)
    raise ConfigError(f"{path.name}: expected .csv or Label Studio's .json, .jsonl")


def _check_raters(names: Sequence[str], reserved: str) -> None:
    for name in names:
        if name == reserved or name.startswith(LABELS_PREFIX):
            raise ConfigError(
                f"no rater can be called {name!r}: it is the source of imported judgments or of "
                "labels, which people's answers must not overwrite"
            )
