"""A run's results as a file: TREC run, Parquet, CSV or JSONL.

TREC: `query_id Q0 doc_id rank score tag`, separated by blanks. Evaluators ignore the rank and sort
by score, ties by id; so the scores written decrease strictly in rank order, by the smallest step
where results tie.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import polars as pl
import pyarrow as pa

from reranking.arrow import frame
from reranking.errors import ConfigError, InputError
from reranking.files import check_out, whole_file
from reranking.runs.run import Run
from reranking.spreadsheets import escaped
from reranking.store import equals

FORMATS = ("trec", "parquet", "csv", "jsonl")


def export_results(run: Run, format: str, out: Path, query_type: str | None = None) -> int:
    """Write the run's results, of one query type if given; the number of rows.

    The file appears whole or not at all. Raises ConfigError for a format or query type that there
    is not, InputError where ids cannot be said in the format.
    """
    types = run.search.query_types
    check_out(out)
    if format not in FORMATS:
        raise ConfigError(f"format {format!r} is none of {', '.join(FORMATS)}")
    if query_type is not None and query_type not in types:
        raise ConfigError(f"the run has query types {', '.join(types)}, not {query_type!r}")
    if format == "trec" and query_type is None:
        if len(types) > 1:
            raise ConfigError(f"a TREC run holds one ranking: choose --query-type of {types}")
        query_type = types[0]
    where = None if query_type is None else equals("query_type", query_type)
    rows = frame(run.only_own(run.database.read(run.results_table, where)))
    rows = rows.sort("query_type", "query_id", "rank")
    with whole_file(out) as part:
        if format == "trec":
            _write_trec(rows, part, f"rescore-{run.run_id[:8]}")
        elif format == "parquet":
            rows.write_parquet(part)
        elif format == "csv":
            texts = pl.col(pl.String).map_elements(escaped, return_dtype=pl.String)
            rows.with_columns(texts).write_csv(part)
        else:
            rows.write_ndjson(part)
    return len(rows)


def _write_trec(rows: pl.DataFrame, file: BinaryIO, tag: str) -> None:
    for name in ("query_id", "doc_id"):
        bad = rows.filter(pl.col(name).str.contains(r"\s") | (pl.col(name) == ""))
        if len(bad):
            raise InputError(
                f"{name} {bad[name][0]!r} has white space, which a TREC run cannot hold: export as "
                "jsonl, csv or parquet instead"
            )
    for line in trec_lines(rows.to_arrow(), tag):
        file.write(line.encode("utf-8"))


def trec_lines(rows: pa.Table, tag: str) -> Iterator[str]:
    """The lines of a TREC run of rows sorted by query and rank."""
    last_query, last_score = None, np.float32(0)
    columns = (rows[n].to_pylist() for n in ("query_id", "doc_id", "rank", "_relevance_score"))
    for query, doc, rank, value in zip(*columns, strict=True):
        score = np.float32(value)
        if query == last_query and score >= last_score:
            score = np.nextafter(last_score, np.float32(-np.inf))
        last_query, last_score = query, score
        yield f"{query} Q0 {doc} {rank} {score!s} {tag}\n"
