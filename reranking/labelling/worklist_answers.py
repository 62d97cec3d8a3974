"""Work lists for people and their answers; plain functions, for no server is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from configs.schema import Config
from reranking.corpus.queries import pin_queries, read_queries
from reranking.errors import ConfigError
from reranking.judgments.lists import current_wording, read_lists
from reranking.labelling.answers import label_settings, lists_of, open_database, run_of
from reranking.labelling.label_run import bench
from reranking.labelling.worklist_run import Order, import_answers, work, write_work
from reranking.runs.run import find_run


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
) -> dict[str, Any]:
    """Write what people should judge next; the pairs and the files."""
    database = open_database(config)
    plans = [find_run(database, run) for run in runs]
    plans = plans or [run_of(database, config, None)]
    judgments = read_lists(database, lists_of(config), plans[0].queries.name)
    pairs = None
    if order == "calibration":
        pairs = bench(database, plans[0], label_settings(database, config)).pairs
    listed = work(
        database,
        plans,
        current_wording(judgments, read_queries(database, plans[0].queries)),
        query_type=query_type,
        k=k,
        order=order,
        pairs=pairs,
        limit=limit,
    )
    files = write_work(listed, form, out)
    return {
        "pairs": listed.num_rows,
        "queries": len(set(listed.column("query_id").to_pylist())),
        "runs": [plan.run_id for plan in plans],
        "order": order,
        "files": [str(file) for file in files],
    }


def read_answers(
    config: Config, path: Path, rater: str | None, judgment_list: str | None
) -> dict[str, Any]:
    """Add a judging tool's answers to a judgment list; what was stored and rejected."""
    target = judgment_list or next(iter(lists_of(config)), None)
    if target is None:
        raise ConfigError("no judgment list to import into: give --judgments LIST")
    database = open_database(config)
    queries = read_queries(database, pin_queries(database, config.queries.query_set))
    answers, unchanged = import_answers(
        database,
        path,
        judgment_list=target,
        queries=queries,
        rater=rater,
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
