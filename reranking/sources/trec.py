"""TREC qrels and run files: fields separated by any white space, no header."""

from __future__ import annotations

from collections.abc import Iterator

from reranking.sources.files import MAX_LINE, Shard, lines
from reranking.sources.rows import Reject, Row, cut

QRELS = ("query_id", "iteration", "doc_id", "relevance")
# Evaluators order a run by its scores and ignore its ranks (BEIR writes 0 in all of them)
RUN = ("query_id", "Q0", "doc_id", "ignored_rank", "score", "tag")


def trec_rows(shard: Shard, names: tuple[str, ...]) -> Iterator[Row | Reject]:
    """The lines as `names`, every value a string; a row's number is its line's."""
    for number, line in lines(shard):
        if line is None:
            yield Reject(number, None, f"the line is longer than {MAX_LINE} bytes", None)
            continue
        # bytes: text would also be split at white space that is legal in an id (U+00A0)
        fields = line.split()
        try:
            values = [field.decode("utf-8") for field in fields]
        except UnicodeDecodeError:
            yield Reject(number, None, "invalid UTF-8", cut(line))
            continue
        if len(values) != len(names):
            expected = " ".join(names).replace("ignored_", "")
            reason = f"{len(values)} fields, expected {len(names)}: {expected}"
            yield Reject(number, None, reason, cut(line))
        else:
            yield Row(number, dict(zip(names, values, strict=True)), line)
