"""The judgment lists that a config names: brought in line with their sources, and checked.

A list that several query sets share is stored once; it may judge the queries of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from configs.evaluation import Judgments
from configs.schema import Config
from reranking.corpus.joined import stored_set
from reranking.corpus.queries import pin_queries, read_queries
from reranking.errors import MissingResource
from reranking.judgments.lists import grades
from reranking.judgments.store import store_judgments
from reranking.sources import open as sources
from reranking.store import Database


def load_judgments(database: Database, config: Config) -> dict[str, int]:
    """Bring the stored lists in line with their sources; rows rejected and stale."""
    counts = {"rejected": 0, "stale": 0}
    with_source = {g.judgment_list: g for g in config.all_judgments if g.source is not None}
    if not with_source:
        return counts
    queries = read_queries(database, pin_queries(database, config.queries.query_set))
    for given in with_source.values():
        assert given.source is not None
        stored = store_judgments(
            database,
            given.judgment_list,
            _judged_by(database, config, given, queries),
            sources.read_judgments(given.source),
            rater=given.rater,
            source_fp=sources.source_fingerprint(given.source, "judgments"),
            accept_reworded=given.accept_reworded,
        )
        counts["rejected"] += stored.rejected
        counts["stale"] += stored.stale
    return counts


def _judged_by(database: Database, config: Config, given: Judgments, queries: pa.Table) -> pa.Table:
    """The queries that a list may judge: those of the sets that name it, or all."""
    if config.judgments is not None and config.judgments.judgment_list == given.judgment_list:
        return queries
    ids = pa.concat_arrays(
        [
            stored_set(database, name).column("query_id").combine_chunks()
            for name in _sets_of(config, given.judgment_list)
        ]
    )
    return queries.filter(pc.is_in(queries["query_id"], ids))


def _sets_of(config: Config, judgment_list: str) -> Iterator[str]:
    for name, one in config.queries.sets.items():
        if one.judgments is not None and one.judgments.judgment_list == judgment_list:
            yield name


def check_lists(database: Database, config: Config, queries: pa.Table) -> None:
    """Raise MissingResource that names every list of the config that is not stored."""
    faults = []
    for name in dict.fromkeys(given.judgment_list for given in config.all_judgments):
        try:
            grades(database, name, queries)
        except MissingResource as fault:
            faults.append(str(fault))
    if faults:
        raise MissingResource("\n".join(faults))
