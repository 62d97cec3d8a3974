"""Judgments that cannot count: their document or query is not among what the run searched."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.compute as pc

from reranking.corpus.corpus import columns_of, string_ids
from reranking.judgments.lists import stored_list
from reranking.runs.run import Run

_EXAMPLES = 5


@dataclass(frozen=True)
class Unknown:
    """How many judged documents and queries the run does not know, with the first of each."""

    documents: int
    queries: int
    document_examples: tuple[str, ...]
    query_examples: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-like values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}


def unknown_to(run: Run, judgment_list: str) -> Unknown:
    """Return what the list judges that is not in the run's corpus or query set.

    A judged document that no corpus holds can never be ranked: recall is bounded by it.
    """
    queries = set(run.query_rows.column("query_id").to_pylist())
    stored = stored_list(run.database, judgment_list)
    of_set = stored.filter(pc.equal(stored["query_set"], run.queries.name))
    asked = of_set["query_id"].to_pylist()
    # A list may judge the queries of several sets: what no other set has either is told of all.
    lost = sorted(set(asked) - queries) if run.part is None else []
    pairs = zip(asked, of_set["doc_id"].to_pylist(), strict=True)
    doc_ids = sorted({doc_id for query_id, doc_id in pairs if query_id in queries})
    known: set[str] = set()
    for batch in columns_of(run.database, run.corpus, doc_ids, []):
        known.update(string_ids(batch.column(run.corpus.id), run.corpus))
    absent = sorted(set(doc_ids) - known)
    return Unknown(len(absent), len(lost), tuple(absent[:_EXAMPLES]), tuple(lost[:_EXAMPLES]))
