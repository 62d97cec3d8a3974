"""Quepid's CSV exports: of a case (`query,docid,rating`), of a book (`query,docid,RATER,...`).

They name the query by its text. Quepid writes a blank before a query that begins with one of
`-=+@`, against formulas in spreadsheets, and lists what nobody rated with an empty rating: these
rows are unjudged, so nothing is read from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reranking.errors import InputError
from reranking.sources import values as clean
from reranking.sources.delimited import delimited_records
from reranking.sources.rows import Fault, Reject, Row, cut

_FORMULA = tuple(f" {sign}" for sign in "-=+@")


def quepid_judgments(path: str) -> Iterator[Row | Reject]:
    """query_text, doc_id, relevance, and from a book source, the rater's name.

    A book's line gives a row per rater, all of the same number.
    """
    records = delimited_records(path, ",")
    header = next(records, None)
    if header is None:
        return
    names = header[1]
    if isinstance(names, str) or names[:2] != ["query", "docid"] or len(names) < 3:
        raise InputError(
            f"{path} is no Quepid export: its header is {str(names)[:200]}, expected "
            "query,docid,rating or query,docid and a column per rater"
        )
    sources: Sequence[str | None] = [None] if names[2:] == ["rating"] else names[2:]
    for number, fields, raw in records:
        try:
            yield from [Row(number, judged) for judged in _judged(fields, sources)]
        except Fault as fault:
            yield Reject(number, None, str(fault), cut(raw))


def _judged(fields: list[str] | str, sources: Sequence[str | None]) -> list[dict[str, object]]:
    if isinstance(fields, str):
        raise Fault(fields)
    if len(fields) > 2 + len(sources):
        raise Fault(f"{len(fields)} fields, but the header has {2 + len(sources)}")
    query = fields[0][1:] if fields[0].startswith(_FORMULA) else fields[0]
    text = clean.text("query", query)
    found: list[dict[str, object]] = []
    for source, rating in zip(sources, fields[2:], strict=False):
        if not rating or rating.isspace():
            continue
        values: dict[str, object] = {
            "query_text": text,
            "doc_id": clean.identifier("docid", fields[1]),
            "relevance": clean.grade("rating", rating),
        }
        found.append(values if source is None else {**values, "source": source})
    return found
