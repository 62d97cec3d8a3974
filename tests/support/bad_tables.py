"""Cases of docs/bad-input.md: queries, judgments, tables of others, exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa

from reranking.errors import EXIT_DONE
from reranking.runs.export import export_results
from reranking.runs.listing import find_run
from reranking.schemas import RUNS, SCHEMA_VERSION, VERSION_KEY
from reranking.store import Database
from tests.support import tiny
from tests.support.bad_bench import CASES, Bench, Outcome, attempt, case

# Queries ----------------------------------------------------------------------------------------


def two_sets(bench: Bench, rows: str = "", **changes: Any) -> Outcome:
    """A run on the set `a`, which is good, and `b`, whose file holds `rows`."""
    (bench.folder / "b.jsonl").write_text(rows)
    sets = {
        "a": {"source": {"format": "jsonl", "path": "queries.jsonl"}},
        "b": {"source": {"format": "jsonl", "path": "b.jsonl"}},
    }
    given = {"query_set": "q", "sets": {**sets, **changes.pop("sets", {})}, **changes}
    return bench.run(queries=given)


def given_list(path: str) -> dict[str, Any]:
    return {"judgments": {"judgment_list": "j", "source": {"format": "trec", "path": path}}}


@case("an id with another text or vector in another of several sets")
def _(bench: Bench) -> Outcome:
    return two_sets(bench, '{"query_id": "q000", "text": "another"}\n')


@case("one of several sets without a usable query")
def _(bench: Bench) -> Outcome:
    return two_sets(bench, '{"query_id": "q000"}\n')


@case("one of several sets that is not stored and has no source")
def _(bench: Bench) -> Outcome:
    return two_sets(bench, sets={"b": {}})


@case("`queries.source` beside `queries.sets`")
def _(bench: Bench) -> Outcome:
    return two_sets(bench, source={"format": "jsonl", "path": "queries.jsonl"})


@case("gates of a set that nothing judges")
def _(bench: Bench) -> Outcome:
    return two_sets(bench, sets={"a": {"gates": [{"metric": "AP", "threshold": 0}]}})


@case("a judgment list with two sources")
def _(bench: Bench) -> Outcome:
    return two_sets(bench, sets={"a": given_list("one.tsv"), "b": given_list("other.tsv")})


@case("an empty query set")
def _(bench: Bench) -> Outcome:
    assert bench.run().code == EXIT_DONE
    bench.queries([])
    outcome = bench.run()
    assert Database(str(bench.folder / "db.lancedb")).need("queries").count_rows() == 2
    return outcome


@case("a set that is not stored and has no source")
def _(bench: Bench) -> Outcome:
    return bench.run(queries={"query_set": "q"})


@case("a query without an id or a text")
def _(bench: Bench) -> Outcome:
    bench.queries([*tiny.queries(["river", "lamp"]), {"text": "no id"}, {"query_id": "x"}])
    outcome = bench.run()
    assert "no query_id" in outcome.text
    return outcome


@case("a query id twice")
def _(bench: Bench) -> Outcome:
    first, second = tiny.queries(["river", "lamp"])
    bench.queries([first, second, first | {"text": "stone"}])
    outcome = bench.run()
    assert list(outcome.table("queries").sort("query_id")["text"]) == ["river", "lamp"]
    return outcome


@case("an empty text, white space, stop words, operators, quotes")
def _(bench: Bench) -> Outcome:
    odd = ["", " \t", "the of", "a AND (b OR -c) x:y* z~2", '"river stone"', "'; DROP TABLE q; --"]
    bench.queries(tiny.queries(odd))
    outcome = bench.run()
    assert outcome.run is not None
    results = outcome.table(outcome.run.results_table)
    assert results.filter(query_type="vector")["query_id"].n_unique() == len(odd)
    assert "q000" not in set(results.filter(query_type="fts")["query_id"])
    return outcome


def long_query(bench: Bench, text: str) -> Outcome:
    bench.queries(tiny.queries([text]))
    outcome = bench.rerank()
    assert outcome.run is not None
    results = outcome.table(outcome.run.results_table)
    assert len(results.filter(query_type="vector")) == 8
    assert results["_relevance_score"].is_finite().all()
    return outcome


@case("a query of 100,000 tokens")
def _(bench: Bench) -> Outcome:
    return long_query(bench, "river stone " * 50_000)


@case("a query that is one token of a million characters")
def _(bench: Bench) -> Outcome:
    return long_query(bench, "x" * 1_000_000)


@case("a query vector of another dimension")
def _(bench: Bench) -> Outcome:
    bench.queries([{"query_id": "q", "text": "river", "vector": [1.0, 2.0, 3.0]}])
    return bench.run()


@case("no query vector and no encoder")
def _(bench: Bench) -> Outcome:
    bench.queries([{"query_id": "q", "text": "river"}])
    return bench.run()


@case("a query vector of zeros")
def _(bench: Bench) -> Outcome:
    bench.queries([{"query_id": "q", "text": "river", "vector": [0.0] * 8}])
    outcome = bench.run()
    assert outcome.run is not None
    assert "vector" not in set(outcome.table(outcome.run.results_table)["query_type"])
    return outcome


# Judgments --------------------------------------------------------------------------------------


def judged(bench: Bench, *rows: tuple[str, str, object]) -> Outcome:
    names = ("query_id", "doc_id", "relevance")
    data = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
    bench.write("judgments.jsonl", "\n".join(data))
    source = {"format": "jsonl", "path": "judgments.jsonl"}
    return bench.run(judgments={"judgment_list": "j", "source": source, "measures": ["R@20"]})


@case("a judgment for an unknown query")
def _(bench: Bench) -> Outcome:
    return judged(bench, ("q000", "d000", 1), ("q999", "d000", 1))


@case("a judgment for an unknown document")
def _(bench: Bench) -> Outcome:
    outcome = judged(bench, ("q000", "d000", 1), ("q000", "d999", 1))
    recall = outcome.table("metrics").filter(query_type="vector", query_id="q000")
    recall = recall.filter(measure="R@20", stage="first")["value"]
    assert list(recall) == [0.5]
    return outcome


@case("a grade that is no integer")
def _(bench: Bench) -> Outcome:
    return judged(bench, ("q000", "d000", 1), ("q001", "d000", "high"))


@case("a pair graded twice by one rater, differently")
def _(bench: Bench) -> Outcome:
    outcome = judged(bench, ("q000", "d000", 1), ("q000", "d000", 1), ("q000", "d000", 2))
    assert list(outcome.table("judgments")["relevance"]) == [1]
    return outcome


@case("no usable judgment")
def _(bench: Bench) -> Outcome:
    return judged(bench, ("q999", "d000", 1))


@case("a list that is not stored and has no source")
def _(bench: Bench) -> Outcome:
    outcome = bench.run(judgments={"judgment_list": "j"})
    assert not (bench.folder / "db.lancedb" / "candidates.lance").exists()
    return outcome


# Tables of others -------------------------------------------------------------------------------


def products(**columns: pa.Array) -> pa.Table:
    """A table of somebody else's: sku, body, vector; a column given as None is left out."""
    rows = tiny.documents(8)
    vectors = pa.array([r["vector"] for r in rows], pa.list_(pa.float32(), 8))
    data = {
        "sku": pa.array([r["doc_id"] for r in rows]),
        "body": pa.array([r["text"] for r in rows]),
        "vector": vectors,
    } | columns
    return pa.table({k: v for k, v in data.items() if v is not None})


@case("no such table")
def _(bench: Bench) -> Outcome:
    return bench.foreign()


@case("no FTS index where fts or hybrid needs one")
def _(bench: Bench) -> Outcome:
    bench.table("products", products())
    outcome = bench.foreign()
    assert "create_index" in outcome.text
    assert bench.foreign(vector="vector").code == outcome.code
    assert bench.run(documents=_PRODUCTS, search__query_types=["vector"]).code == EXIT_DONE
    return outcome


_PRODUCTS = {"table": "products", "managed": False, "id": "sku", "text": "body"}

FOREIGN: dict[str, dict[str, Any]] = {
    "a column that is not there": {"sku": None},
    "a text column that is no text": {"body": pa.array(range(8))},
    "a vector column that is no vector": {"vector": pa.array(["1, 2"] * 8)},
    "a column called `_distance`": {"_distance": pa.array(["x"] * 8)},
    "ids that stand twice": {"sku": pa.array(["a"] * 8)},
    "rows without text": {"body": pa.array(["river", None, "", " \n", *["stone bridge"] * 4])},
    "rows without an id": {"sku": pa.array(["a", None, *"bcdefg"])},
}
for _name, _columns in FOREIGN.items():

    def _foreign(bench: Bench, columns: dict[str, Any] = _columns) -> Outcome:
        data = products(**columns)
        bench.table("products", data, "body" if data["body"].type == pa.string() else None)
        return bench.foreign()

    CASES[_name] = _foreign


@case("a template for a table that is not managed")
def _(bench: Bench) -> Outcome:
    bench.table("products", products(), "body")
    return bench.foreign(template="{sku} {body}")


@case("a managed table that somebody else made")
def _(bench: Bench) -> Outcome:
    bench.table("documents", products())
    outcome = bench.run()
    assert Database(str(bench.folder / "db.lancedb")).need("documents").count_rows() == 8
    return outcome


@case("results.publish of a table that somebody else made")
def _(bench: Bench) -> Outcome:
    bench.table("shop", products())
    outcome = bench.run(results={"publish": "shop"})
    database = Database(str(bench.folder / "db.lancedb"))
    assert database.need("shop").schema.names == ["sku", "body", "vector"]
    assert "candidates" not in database.names()
    return outcome


@case("a table of a newer rescore")
def _(bench: Bench) -> Outcome:
    mark = {VERSION_KEY: str(SCHEMA_VERSION + 1).encode()}
    newer = pa.schema([RUNS.field(0).with_metadata(mark), *list(RUNS)[1:]])
    bench.table("runs", newer.empty_table())
    return bench.run()


@case("no database where a command looks for runs")
def _(bench: Bench) -> Outcome:
    place = bench.folder / "none"
    outcome = attempt(lambda: Database(str(place), must_exist=True) and None, place)
    assert not place.exists()
    return outcome


# Exports ----------------------------------------------------------------------------------------


def exported(bench: Bench, format: str, out: str = "out") -> Outcome:
    run = bench.run(search__query_types=["vector"]).run
    assert run is not None
    path = bench.folder / out
    outcome = attempt(
        lambda: export_results(run, format, path) and None,
        bench.folder / "db.lancedb",
    )
    assert not [p for p in bench.folder.iterdir() if p.name.startswith((".out", "out"))]
    return outcome


@case("ids with white space, as TREC")
def _(bench: Bench) -> Outcome:
    bench.first(doc_id="a b")
    return exported(bench, "trec")


@case("an unknown format")
def _(bench: Bench) -> Outcome:
    return exported(bench, "xlsx")


@case("a folder that is not there")
def _(bench: Bench) -> Outcome:
    return exported(bench, "csv", "none/out")


@case("a run that is not there")
def _(bench: Bench) -> Outcome:
    run = bench.run().run
    assert run is not None
    return attempt(lambda: find_run(run.database, "zz") and None, Path("/none"))
