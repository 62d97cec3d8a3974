"""Judgments out, as TREC qrels and BEIR folders, with every rater's own grade and the unjudged.

Evaluators take one grade per pair, so the main file holds the consensus (lower median). Beside it
`raters.tsv` keeps the single raters, and `unjudged.tsv` what nobody judged yet: in qrels a missing
row and a grade of 0 mean different things, and neither can say "was in the pool, not judged".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from reranking.errors import InputError
from reranking.files import write_text
from reranking.judgments.consensus import one_per_pair

BEIR_HEADER = "query-id\tcorpus-id\tscore\n"


def trec_lines(judgments: pa.Table) -> Iterator[str]:
    """Yield `query_id 0 doc_id relevance` of the consensus; InputError for ids with white space."""
    for row in one_per_pair(judgments).to_pylist():
        yield f"{_word(row['query_id'])} 0 {_word(row['doc_id'])} {row['relevance']}\n"


def _word(identifier: str) -> str:
    if not identifier or re.search(r"\s", identifier):
        raise InputError(
            f"id {identifier!r} is empty or has white space, which TREC files separate columns "
            "by; rename it at ingest"
        )
    return identifier


def write_trec(folder: Path, judgments: pa.Table, unjudged: pa.Table | None = None) -> None:
    """Write qrels.txt, raters.tsv and, where given, unjudged.tsv (query_id, doc_id) to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "qrels.txt", trec_lines(judgments))
    _write_beside(folder, judgments, unjudged, _word)


def write_beir(
    folder: Path,
    corpus: Iterable[pa.Table],
    queries: pa.Table,
    judgments: pa.Table,
    unjudged: pa.Table | None = None,
) -> None:
    """Write a BEIR folder: corpus.jsonl, queries.jsonl, qrels/test.tsv, and the files beside it.

    `corpus` comes in blocks with doc_id, text and perhaps title; `queries` has query_id and text.
    """
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    write_text(folder / "corpus.jsonl", _corpus_lines(corpus))
    rows = queries.select(["query_id", "text"]).to_pylist()
    write_text(
        folder / "queries.jsonl", (_json({"_id": r["query_id"], "text": r["text"]}) for r in rows)
    )
    write_text(folder / "qrels" / "test.tsv", _beir_lines(judgments))
    _write_beside(folder, judgments, unjudged, _field)


def _corpus_lines(corpus: Iterable[pa.Table]) -> Iterator[str]:
    for block in corpus:
        titled = "title" in block.column_names
        for row in block.select(["doc_id", "text", *(["title"] if titled else [])]).to_pylist():
            title = row.get("title") or ""
            yield _json({"_id": row["doc_id"], "title": title, "text": row["text"]})


def _beir_lines(judgments: pa.Table) -> Iterator[str]:
    yield BEIR_HEADER
    for row in one_per_pair(judgments).to_pylist():
        yield f"{_field(row['query_id'])}\t{_field(row['doc_id'])}\t{row['relevance']}\n"


def _field(identifier: str) -> str:
    """An id between tabs: it may have blanks inside, which readers keep."""
    if not identifier.strip() or identifier != identifier.strip() or re.search(_BREAKS, identifier):
        raise InputError(
            f"id {identifier!r} is empty, begins or ends with a blank, or has a tab or a line end, "
            "which BEIR files separate columns and rows by; rename it at ingest"
        )
    return identifier


_BREAKS = r"[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]"


def _write_beside(
    folder: Path, judgments: pa.Table, unjudged: pa.Table | None, of: Callable[[str], str]
) -> None:
    """The single raters and the unjudged pairs, which no qrels format has a place for.

    `of` says how an id is written.
    """
    write_text(folder / "raters.tsv", _rater_lines(judgments, of))
    if unjudged is not None:
        rows = unjudged.select(["query_id", "doc_id"]).to_pylist()
        lines = (f"{of(row['query_id'])}\t{of(row['doc_id'])}\n" for row in rows)
        write_text(folder / "unjudged.tsv", ["query-id\tcorpus-id\n", *lines])


def _rater_lines(judgments: pa.Table, of: Callable[[str], str]) -> Iterator[str]:
    yield BEIR_HEADER.replace("\n", "\tsource\n")
    rows = judgments.select(["query_id", "doc_id", "relevance", "source"])
    order = [(name, "ascending") for name in ("query_id", "doc_id", "source")]
    for row in rows.sort_by(order).to_pylist():
        source = re.sub(r"\s", " ", row["source"])
        yield f"{of(row['query_id'])}\t{of(row['doc_id'])}\t{row['relevance']}\t{source}\n"


def _json(row: dict[str, str]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
