"""Cases of docs/bad-input.md: filters by type, fields in structs, integer ids, declared types."""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

import pyarrow as pa

from reranking.errors import EXIT_DONE
from reranking.store import Database
from tests.support import tiny
from tests.support.bad_bench import Bench, Outcome, case

INSIDE = {"table": "products", "managed": False, "id": "sku", "text": "meta.body"}


def products(bench: Bench, **more: pa.Array) -> None:
    """A table of somebody else's: integer ids, texts and languages inside a struct."""
    rows = tiny.documents(8)
    meta = [{"body": r["text"], "lang": "en" if n % 2 else "de"} for n, r in enumerate(rows)]
    data = {
        "sku": pa.array(range(8), pa.int64()),
        "meta": pa.array(meta),
        "vector": pa.array([r["vector"] for r in rows], pa.list_(pa.float32(), 8)),
    }
    bench.table("products", pa.table(data | more), "meta.body")


def filtered(bench: Bench, where: dict[str, Any], **more: pa.Array) -> Outcome:
    products(bench, **more)
    return bench.run(documents=INSIDE, search__where=where)


def found(outcome: Outcome, leg: str) -> set[str]:
    """The ids that a leg found for the first query."""
    rows = outcome.table("candidates").filter(query_id="q000")
    return set(rows.drop_nulls(f"{leg}_rank")["doc_id"])


@case("a filter on a field inside a struct")
def _(bench: Bench) -> Outcome:
    outcome = filtered(bench, {"meta.lang": "en"})
    assert found(outcome, "vector") == {"1", "3", "5", "7"} >= found(outcome, "fts")
    return outcome


@case("a filter on a field that the struct lacks")
def _(bench: Bench) -> Outcome:
    return filtered(bench, {"meta.tag": "en"})


@case("a filter on a whole struct")
def _(bench: Bench) -> Outcome:
    return filtered(bench, {"meta": "en"})


@case("a filter on float32 or float16 numbers")
def _(bench: Bench) -> Outcome:
    prices = pa.array([0.1, 99.99, *[5.0] * 6], pa.float32())
    outcome = filtered(bench, {"price": [0.1, 99.99]}, price=prices)
    assert found(outcome, "vector") == {"0", "1"}
    return outcome


@case("a filter on integers with a fraction, or a number that they cannot hold")
def _(bench: Bench) -> Outcome:
    sizes = pa.array(range(8), pa.int8())
    sizes = pa.StructArray.from_arrays([sizes], ["size"])
    outcome = filtered(bench, {"more.size": {"gt": 4.5, "lt": 300}}, more=sizes)
    assert found(outcome, "vector") == {"5", "6", "7"}
    return outcome


@case("a text column that the struct lacks")
def _(bench: Bench) -> Outcome:
    products(bench)
    return bench.run(documents=INSIDE | {"text": "meta.title"})


@case("results.columns of a type that results cannot carry")
def _(bench: Bench) -> Outcome:
    kind = pa.map_(pa.string(), pa.int64())
    products(bench, tally=pa.array([[("a", 1)]] * 8, kind))
    outcome = bench.run(documents=INSIDE, results={"publish": "r", "columns": ["tally"]})
    assert "searches" not in Database(str(bench.folder / "db.lancedb")).names()
    return outcome


@case("a judgment for `5.0` or `abc`, where ids are integers")
def _(bench: Bench) -> Outcome:
    products(bench)
    rows = [{"query_id": "q000", "doc_id": d, "relevance": 1} for d in ("0", "5.0", "abc", "05")]
    bench.write("judgments.jsonl", "\n".join(map(json.dumps, rows)))
    source = {"format": "jsonl", "path": "judgments.jsonl"}
    judgments = {"judgment_list": "j", "source": source, "measures": ["R@20"]}
    outcome = bench.run(documents=INSIDE, judgments=judgments)
    recall = outcome.table("metrics").filter(query_type="vector", measure="R@20", stage="first")
    assert list(recall["value"]) == [0.25]
    return outcome


@case("a ranked row for `5.0` or `abc`, where ids are integers")
def _(bench: Bench) -> Outcome:
    products(bench)
    bench.write("ranking.csv", "query_id,doc_id,score\nq000,5.0,9\nq000,abc,8\nq001,5,7\n")
    candidates = {"source": {"format": "csv", "path": "ranking.csv"}}
    outcome = bench.run(documents=INSIDE, candidates=candidates)
    assert set(outcome.table("candidates")["doc_id"]) == {"5"}
    return outcome


def declared(bench: Bench, **first: object) -> Outcome:
    bench.first(**first)
    return bench.run(documents__types={"price": "int64"})


@case("a value that is not of the type in `documents.types`")
def _(bench: Bench) -> Outcome:
    outcome = declared(bench, price="7.5")
    assert outcome.table("documents").height == 7
    return outcome


@case("numbers as text, as in CSV, declared in `documents.types`")
def _(bench: Bench) -> Outcome:
    outcome = declared(bench, price="007")
    assert outcome.column("price")[:2] == [7, None]
    return outcome


@case("a type in `documents.types` that the stored column has not")
def _(bench: Bench) -> Outcome:
    bench.first(price="cheap")
    assert bench.run().code == EXIT_DONE
    return declared(bench, price=7)


@case("texts of more than 2 GiB among those that LanceDB indexes at once")
def _(bench: Bench) -> Outcome:
    with mock.patch("reranking.corpus.weights._MOST", 100):  # bytes, in the place of 2 GiB
        outcome = bench.run()
    assert "documents" not in Database(str(bench.folder / "db.lancedb")).names()
    return outcome
