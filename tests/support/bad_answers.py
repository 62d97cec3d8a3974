"""Bad input: answers of raters, as they come back from judging tools and spreadsheets."""

from __future__ import annotations

import json

from configs.load import load_config
from reranking.errors import EXIT_DONE
from reranking.fingerprints import text_hash
from reranking.labelling.worklist_answers import read_answers
from tests.support import tiny
from tests.support.bad_bench import Bench, Outcome, attempt, case

GOOD = "river stone,d000,1"


def imported(
    bench: Bench, content: str, name: str = "answers.csv", judgment_list: str = "j"
) -> Outcome:
    """Import the file as `rescore worklist-import` does, into a database with good documents."""
    assert bench.run().code == EXIT_DONE
    config = load_config(tiny.write_config(bench.folder, bench.model, rerank=None))
    file = bench.write(name, content.encode("utf-8", "surrogateescape"))
    raters = ["ann"] if name.endswith(".csv") else []
    return attempt(
        lambda: read_answers(config, file, raters, judgment_list) and None,
        bench.folder / "db.lancedb",
    )


def rated(bench: Bench, line: str) -> Outcome:
    return imported(bench, f"query,docid,rating\n{GOOD}\n{line}\n")


@case("a rating of 1e30, or off the list's scale")
def _(bench: Bench) -> Outcome:
    return rated(bench, "river stone,d001,1e30")


@case("a rating that is no whole number")
def _(bench: Bench) -> Outcome:
    return rated(bench, "river stone,d001,good")


@case("an answer about a document that does not exist")
def _(bench: Bench) -> Outcome:
    return rated(bench, "river stone,1,1")


@case("an answer without a document")
def _(bench: Bench) -> Outcome:
    return rated(bench, "river stone,,1")


@case("an answer about a query that is not in the set")
def _(bench: Bench) -> Outcome:
    return rated(bench, "sea,d001,1")


@case("a pair rated twice, differently, by one rater")
def _(bench: Bench) -> Outcome:
    return rated(bench, "river stone,d000,2")


@case("an answer that is not UTF-8")
def _(bench: Bench) -> Outcome:
    return rated(bench, "river stone,d\udc80,2")


def task(name: str) -> str:
    data = {
        "query_id": "q000",
        "doc_id": "d000",
        "query_hash": text_hash("river stone").hex(),
    }
    result = [{"from_name": name, "value": {"choices": ["1"]}}]
    return json.dumps({"data": data, "annotations": [{"completed_by": 1, "result": result}]})


@case("a task of JSON nested too deeply")
def _(bench: Bench) -> Outcome:
    deep = '{"x":' + "[" * 100_000 + "]" * 100_000 + "}"
    return imported(bench, f"[{task('relevance')},{deep}]", "answers.json")


@case("an answer in another field of Label Studio")
def _(bench: Bench) -> Outcome:
    return imported(bench, f"[{task('relevance')},{task('quality')}]", "answers.json")


@case("a CSV with a column that is not rescore's and no rater's")
def _(bench: Bench) -> Outcome:
    return imported(bench, f"query,docid,rating,price\n{GOOD},2\n")


@case("a CSV with a quote that never closes")
def _(bench: Bench) -> Outcome:
    return rated(bench, 'river stone,"d001,2')


@case("answers in a file that is neither CSV nor JSON")
def _(bench: Bench) -> Outcome:
    return imported(bench, GOOD, "answers.txt")


@case("a judgment list that no config could name")
def _(bench: Bench) -> Outcome:
    return imported(bench, GOOD, "answers.csv", "../../x")
