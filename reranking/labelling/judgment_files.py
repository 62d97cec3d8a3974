"""A query set's judgments as files that evaluators read: TREC qrels or a BEIR folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from reranking.arrow import frame
from reranking.corpus.corpus import rows_of_corpus, string_ids
from reranking.corpus.queries import read_queries
from reranking.errors import ConfigError
from reranking.judgments.files import write_beir, write_trec
from reranking.labelling.run_worklist import shown_by
from reranking.labelling.worklist import work_list
from reranking.runs.run import Run

FORMATS = ("beir", "qrels")


def export_judgments(
    run: Run, judgments: pa.Table, folder: Path, form: str, *, k: int = 10
) -> dict[str, int]:
    """Write judgments as a BEIR folder or TREC qrels; the pairs judged, and those unjudged.

    Beside the consensus stand every rater's own grade, and what the run shows in its top k without
    a judgment. `judgments` are those of the queries' present texts. A BEIR corpus has the stored
    text, into which the title went at ingest, and no title of its own: a reader that puts title and
    text together then sees what was searched and scored.
    """
    if form not in FORMATS:
        raise ConfigError(f"format {form!r} is none of {', '.join(FORMATS)}")
    unjudged = work_list(shown_by([run], None), judgments, k=k)
    if form == "qrels":
        write_trec(folder, judgments, unjudged)
    else:
        queries = read_queries(run.database, run.queries)
        write_beir(folder, _corpus(run), queries, judgments, unjudged)
    pairs = frame(judgments).select("query_id", "doc_id").n_unique()
    return {"judged": pairs, "unjudged": unjudged.num_rows}


def _corpus(run: Run) -> Iterator[pa.Table]:
    """The run's documents in blocks: doc_id and text."""
    corpus = run.corpus
    columns = [corpus.id, corpus.scored]
    for batch in rows_of_corpus(run.database, corpus, columns):
        texts = [text or "" for text in batch.column(corpus.scored).to_pylist()]
        yield pa.table({"doc_id": string_ids(batch.column(corpus.id), corpus), "text": texts})
