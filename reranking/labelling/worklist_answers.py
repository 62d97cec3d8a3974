"""Work lists for people and their answers; plain functions, for no server is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from configs.part import Name
from configs.schema import Config
from reranking.corpus.corpus import Corpus, pin_managed
from reranking.corpus.foreign import home_of
from reranking.corpus.queries import pin_queries, read_queries
from reranking.errors import ConfigError
from reranking.judgments.lists import current_wording, read_lists
from reranking.labelling.answers import labels_of, open_database, run_of
from reranking.labelling.run_labels import bench
from reranking.labelling.run_worklist import Order, import_answers, list_grades, work, write_work
from reranking.runs.listing import find_run
from reranking.store import Database


def write_worklist(
    config: Config,
    runs: Sequence[str],
    out: Path,
    *,
    form: str,
    order: Order,
    query_type: str | None,
    k: int,
    limit: int | None,
    grades: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Write what people should judge next; the pairs and the files."""
    database = open_database(config)
    stored = [find_run(database, run) for run in runs]
    stored = stored or [run_of(database, config, None)]
    judgments = read_lists(database, config.judgment_lists, stored[0].queries.name)
    pairs = cut = None
    if order == "calibration":
        of = bench(stored[0], labels_of(config))
        pairs, cut = of.pairs, of.cut
    listed = work(
        stored,
        current_wording(judgments, read_queries(database, stored[0].queries)),
        query_type=query_type,
        k=k,
        order=order,
        pairs=pairs,
        cut=cut,
        limit=limit,
    )
    lists, query_set = config.judgment_lists, stored[0].queries.name
    own = grades or list_grades(database, lists[0] if lists else "", query_set)
    files = write_work(listed, form, out, own)
    return {
        "pairs": listed.num_rows,
        "queries": len(set(listed.column("query_id").to_pylist())),
        "runs": [run.run_id for run in stored],
        "order": order,
        "files": [str(file) for file in files],
    }


def read_answers(
    config: Config,
    path: Path,
    raters: Sequence[str],
    judgment_list: str | None,
    grades: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Add a judging tool's answers to a judgment list; what was stored and rejected."""
    target = judgment_list or next(iter(config.judgment_lists), None)
    if target is None:
        raise ConfigError("no judgment list to import into: give --judgments LIST")
    _check_name(target)
    database = open_database(config)
    queries = read_queries(database, pin_queries(database, config.queries.query_set))
    answers, unchanged = import_answers(
        database,
        path,
        judgment_list=target,
        queries=queries,
        corpus=_documents(database, config),
        raters=raters,
        grades=grades or list_grades(database, target, config.queries.query_set),
        reserved="imported" if config.judgments is None else config.judgments.rater,
    )
    return {
        "judgment_list": target,
        "answers": answers.judgments.num_rows,
        "unchanged": unchanged,
        "raters": sorted(set(answers.judgments.column("source").to_pylist())),
        "rejected": len(answers.rejected),
        "reasons": answers.rejected[:20],
    }


def _check_name(judgment_list: str) -> None:
    """Raise ConfigError if a config could not name the list so."""
    try:
        TypeAdapter(Name).validate_python(judgment_list)
    except ValidationError:
        raise ConfigError(
            f"--judgments {judgment_list[:80]!r}: a name has letters, digits and _ . - only"
        ) from None


def _documents(database: Database, config: Config) -> Corpus:
    """The configured documents as they are now."""
    given = config.documents
    if given.managed:
        return pin_managed(database, given.table)
    home, other = home_of(database, given)
    version = int(home.need(given.table).version)
    return Corpus(
        given.table,
        version,
        managed=False,
        id=given.id,
        text=given.text,
        scored=given.text,
        hash_column=None,
        home=other,
    )
