"""Quepid's CSV exports: of a case (`query,docid,rating`), of a book (`query,docid,RATER,...`).

They name the query by its text. Quepid writes a blank before what begins with one of `-=+@`,
against formulas in spreadsheets, and lists what nobody rated with an empty rating: these rows are
unjudged, so nothing is read from them. Blanks around a query's text mean nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reranking.errors import InputError
from reranking.sources import values as clean
from reranking.sources.delimited import Record, Records
from reranking.sources.files import Shard
from reranking.sources.rows import Fault, Reject, Row, cut

_FORMULA = tuple(f" {sign}" for sign in "-=+@")


def quepid_judgments(shard: Shard) -> Iterator[Row | Reject]:
    """query_text, doc_id, relevance, and from a book source, the rater's name.

    A book's line gives a row per rater, all of the same number. Raises InputError if the header is
    another.
    """
    records = Records(shard, ",", "csv", ragged=True)
    names = records.header()
    if names is None:
        return
    if names[:2] != ["query", "docid"] or len(names) < 3:
        raise InputError(
            f"{shard} is no Quepid export: its header is {str(names)[:200]}, expected "
            "query,docid,rating or query,docid and a column per rater"
        )
    sources: Sequence[str | None] = [None] if names[2:] == ["rating"] else names[2:]
    for record in records:
        if isinstance(record.fields, str):
            yield Reject(record.number, None, record.fields, cut(record.raw))
            continue
        ratings = zip(sources, record.fields[2:], strict=False)
        for source, rating in ratings:
            if not rating.strip():
                continue
            try:
                yield Row(record.number, _judged(record, record.fields, source, rating))
            except Fault as fault:
                yield Reject(record.number, None, str(fault), cut(record.raw))


def _judged(
    record: Record, fields: list[str], source: str | None, rating: str
) -> dict[str, object]:
    doc_id = fields[1][1:] if fields[1].startswith(_FORMULA) else record.without_blanks(1)
    values: dict[str, object] = {
        "query_text": clean.text("query", fields[0]).strip(),
        "doc_id": clean.identifier("docid", doc_id),
        "relevance": clean.grade("rating", rating),
    }
    return values if source is None else {**values, "source": source}
