"""Erase one document or one query wherever rescore keeps it, and say where that cannot be done."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from lancedb.expr import Expr

from configs.schema import Config
from reranking.corpus.indexes import create_fts
from reranking.corpus.vector_tables import vector_tables
from reranking.errors import MissingResource
from reranking.runs.consumers import place_of
from reranking.runs.run import results_name
from reranking.schemas import SEARCHES
from reranking.store import Database, equals, one_of
from reranking.upkeep.versions import prune

_AT_ONCE = timedelta(0)
_APART = 1.2  # seconds: versions that are pruned are this much older than a tagged one


@dataclass
class Erased:
    """What was deleted, per table or file, and what stays behind with the reason."""

    what: str
    id: str
    rows: dict[str, int] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON-like values."""
        return dict(vars(self))


def erase_document(database: Database, config: Config, doc_id: str, *, unpin: bool) -> Erased:
    """Delete a document from every table, from reports, and from versions that no run pins.

    With `unpin` the runs that pin older versions let go of them: their results stay, but what
    reads the texts of that time no longer can. Raises MissingResource if nothing is known of it.
    """
    done, documents = Erased("document", doc_id), config.documents
    hashes: set[bytes] = set()
    by_id = equals("doc_id", doc_id)
    for row in database.stream("candidates", by_id, ["doc_hash"]):
        hashes.update(row.column("doc_hash").to_pylist())
    tables: list[tuple[Database, str, Expr]] = []
    if documents.managed:
        stored = database.read(documents.table, by_id, ["text_hash"])
        hashes.update(stored.to_pydict().get("text_hash", []))
        own = [documents.table, *vector_tables(database, documents.table)]
        tables += [(database, name, by_id) for name in own]
    else:
        done.left.append(
            f"table {documents.table!r} is somebody else's and is never written: its owner erases "
            "the document there"
        )
    tables += [(database, name, by_id) for name in ("candidates", "judgments", "labels")]
    tables += [(database, "rejects", equals("id", doc_id))]
    tables += [(database, name, by_id) for name in _results(database)]
    tables += _consumers(database, config, by_id, done)
    _delete(tables, done)
    _scores(database, "doc_hash", hashes, done)
    if documents.managed and done.rows.get(documents.table):
        create_fts(database, documents)  # its words stand in the old index
        done.left.append(
            f"a vector index of {documents.table!r}, if there is one, was trained with its vector "
            "among others; the vector itself is gone from it"
        )
    _finish(tables, done, doc_id, config, unpin=unpin)
    return done


def erase_query(database: Database, config: Config, query_id: str, *, unpin: bool) -> Erased:
    """Delete a query of the config's query set likewise, and of the sets that it is made of."""
    done, query_set = Erased("query", query_id), config.queries.query_set
    of_query = equals("query_id", query_id)
    of_set = of_query & one_of("query_set", [query_set, *config.queries.sets])
    hashes = set(database.read("queries", of_set, ["text_hash"]).to_pydict().get("text_hash", []))
    runs = database.read("runs", equals("query_set", query_set), ["run_id", "search_id"])
    run_ids, searches = (sorted(set(runs.to_pydict().get(n, []))) for n in ("run_id", "search_id"))
    found = of_query & one_of("search_id", searches or [""])
    for row in database.stream("candidates", found, ["query_hash"]):
        hashes.update(row.column("query_hash").to_pylist())
    sets = [
        row["label_set"]
        for row in database.read("label_sets", columns=["label_set", "runs"]).to_pylist()
        if set(row["runs"]) & set(run_ids)
    ]
    tables: list[tuple[Database, str, Expr]] = [
        (database, "queries", of_set),
        (database, "candidates", found),
        (database, "judgments", of_set),
        (database, "metrics", of_query & one_of("run_id", run_ids or [""])),
        (database, "labels", of_query & one_of("label_set", sets or [""])),
        (database, "rejects", equals("id", query_id)),
        *((database, results_name(run_id), of_query) for run_id in run_ids),
        *_consumers(database, config, of_set if config.results.shared else of_query, done),
    ]
    _delete(tables, done)
    _scores(database, "query_hash", hashes, done)
    _finish(tables, done, query_id, config, unpin=unpin)
    return done


def _results(database: Database) -> list[str]:
    runs = database.read("runs", columns=["run_id"]).to_pydict().get("run_id", [])
    return [results_name(run_id) for run_id in runs]


def _consumers(
    database: Database, config: Config, where: Expr, done: Erased
) -> list[tuple[Database, str, Expr]]:
    name = config.results.table
    if name is None:
        done.left.append("consumers' tables of other configs are not known here")
        return []
    return [(place_of(database, config.results), name, where)]


def _delete(tables: Iterable[tuple[Database, str, Expr]], done: Erased) -> None:
    for home, name, where in tables:
        table = home.open(name)
        if table is None:
            continue
        count = table.count_rows(where.to_sql())
        if count:
            if name == "candidates":
                _count_less(home, where)
            home.delete(name, where)
            done.rows[name] = done.rows.get(name, 0) + int(count)


def _count_less(database: Database, where: Expr) -> None:
    """Have the marks of chunks count what is left of their candidates: others would be missed."""
    gone: dict[tuple[Any, ...], dict[str, int]] = {}
    for rows in database.stream("candidates", where, [*_CHUNK, *_RANKS]):
        for row in rows.to_pylist():
            lost = gone.setdefault(tuple(row[k] for k in _CHUNK), dict.fromkeys(_RANKS, 0))
            for leg in _RANKS:
                lost[leg] += row[leg] is not None
    searches = one_of("search_id", sorted({key[0] for key in gone}))
    marks = []
    for mark in database.read("searches", searches).to_pylist():
        lost = gone.get(tuple(mark[k] for k in _CHUNK), {})
        changed = {hits: mark[hits] - lost.get(leg, 0) for leg, hits in _RANKS.items()}
        if lost:
            marks.append(mark | changed)
    database.merge("searches", pa.Table.from_pylist(marks, SEARCHES), SEARCHES)


_CHUNK = ("search_id", "chunk", "attempt")
_RANKS = {"vector_rank": "hits_vector", "fts_rank": "hits_fts"}


def _scores(database: Database, column: str, hashes: set[bytes], done: Erased) -> None:
    """Delete pair scores by the text's hash; texts that others have as well are theirs too."""
    if not hashes or database.open("pair_scores") is None:
        return
    other = "text_hash" if column == "query_hash" else None
    kept: set[bytes] = set()
    if other is not None:
        rows = database.read("queries", one_of("text_hash", sorted(hashes)), ["text_hash"])
        kept = set(rows.to_pydict().get("text_hash", []))
    else:
        rows = database.read("candidates", one_of("doc_hash", sorted(hashes)), ["doc_hash"])
        kept = set(rows.to_pydict().get("doc_hash", []))
    if kept:
        done.left.append(f"pair scores of {len(kept)} texts stay: another row has the same text")
    where = one_of(column, sorted(hashes - kept))
    if hashes - kept:
        _delete([(database, "pair_scores", where)], done)


def _finish(
    tables: Iterable[tuple[Database, str, Expr]],
    done: Erased,
    id: str,
    config: Config,
    *,
    unpin: bool,
) -> None:
    """Rewrite the files, prune older versions, remove reports; say what stays behind."""
    if not done.rows:
        raise MissingResource(
            f"{done.what} {id!r} stands in no table of {config.database}: there is nothing to erase"
        )
    homes = {name: home for home, name, _ in tables} | {
        "pair_scores": next(home for home, _, _ in tables)
    }
    for name in done.rows:
        _rewrite(homes[name], name, done, unpin=unpin)
    _reports(config, id, done)
    done.left += [
        "source files and a table that the documents come from: the next ingest brings back what "
        "still stands there",
        "exported files, work lists, training data, logs, back-ups, and what Prefect has stored",
    ]


def _rewrite(home: Database, name: str, done: Erased, *, unpin: bool) -> None:
    """Have the deleted rows leave the table's files, not only its newest version."""
    # Compaction leaves a lone file with few deleted rows as it is. A row written anew makes two
    # files of it, which are made one, without the deleted rows, once the indexes cover both.
    _touch(home, name)
    home.optimize(name)
    home.optimize(name)
    last = int(home.need(name).version)  # no later version needs a file with the deleted rows
    if home.tags(name):
        time.sleep(_APART)
        _touch(home, name)
    now = int(home.need(name).version)
    for tag, version in home.tags(name).items():
        if tag == "ready":
            home.tag(name, tag, now)
        elif unpin and version <= last:
            home.untag(name, tag)
        elif version <= last:
            who = f"run {tag[4:12]}" if tag.startswith("run-") else f"the tag {tag}"
            done.left.append(
                f"an older version of {name!r}, which {who} holds: `rescore forget` the run, or "
                "erase with --unpin"
            )
    prune(home, name, _AT_ONCE)
    kept = [v for v in home.need(name).list_versions() if v["version"] < last]
    if kept and not any(f"version of {name!r}" in text for text in done.left):
        done.left.append(f"{len(kept)} older versions of {name!r} that LanceDB did not remove")


def _touch(home: Database, name: str) -> None:
    """Write a row anew as it is."""
    table = home.need(name)
    first = str(table.schema.names[0])
    rest = table.search().select([first]).limit(1).to_arrow().column(first).to_pylist()
    if rest:
        table.update(where=equals(first, rest[0]).to_sql(), values_sql={first: f"`{first}`"})


def _reports(config: Config, id: str, done: Erased) -> None:
    """Remove the reports that name it: each is one file, and `rescore report` writes it again."""
    if config.results.report is None:
        done.left.append("reports that were written elsewhere")
        return
    names = {id, html.escape(id), json.dumps(id)[1:-1]}
    for file in sorted(Path(config.results.report).glob("*.html")):
        text = file.read_text("utf-8", errors="replace")
        if any(name in text for name in names):
            file.unlink()
            done.files.append(str(file))
