"""Work lists from finished runs, and people's answers back into a judgment list."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner, Result

from configs.load import load_config
from flows.cli import app
from reranking.arrow import frame
from reranking.labelling import answers as labelling
from reranking.labelling.run_labels import bench
from reranking.pipeline import Pipeline
from reranking.store import Database
from tests.support.labelled import copied


@pytest.fixture
def copy(labelled_run: Path, tmp_path: Path) -> Path:
    return copied(labelled_run, tmp_path)


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def judged(config: Path) -> pl.DataFrame:
    return frame(Database(load_config(config).database).read("judgments"))


def shown(config: Path, k: int = 10) -> pl.DataFrame:
    """What the run shows in hybrid search, with its rank."""
    settings = load_config(config)
    database = Database(settings.database)
    plan = labelling.run_of(database, settings, None)
    rows = frame(database.need(plan.results_table).search().to_arrow())
    return rows.filter((pl.col("query_type") == "hybrid") & (pl.col("rank") <= k))


def tasks_of(path: Path) -> list[dict[str, str]]:
    return [task["data"] for task in json.loads(path.read_text())]


def lines_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_it_lists_exactly_what_nobody_judged(copy: Path) -> None:
    out = copy.parent / "work.json"
    result = ask("worklist", copy, "--out", out, "--format", "label-studio", "--k", 5, "--json")
    assert result.exit_code == 0, result.output
    listed = {(task["query_id"], task["doc_id"]) for task in tasks_of(out)}
    unjudged = shown(copy, 5).join(judged(copy), on=["query_id", "doc_id"], how="anti")
    assert listed == set(unjudged.select("query_id", "doc_id").rows())
    assert json.loads(result.stdout)["pairs"] == len(listed) > 10
    ranks = {(r["query_id"], r["doc_id"]): r["rank"] for r in unjudged.to_dicts()}
    order = [ranks[task["query_id"], task["doc_id"]] for task in tasks_of(out)]
    assert order == sorted(order)  # one run: the higher it stands, the more a judgment moves
    assert "<Choices" in out.with_suffix(".xml").read_text()


def test_for_the_calibration_all_regions_are_asked_about_and_most_at_the_cut(copy: Path) -> None:
    out = copy.parent / "work.jsonl"
    options = ["--format", "label-studio", "--order", "calibration", "--limit", 40]
    assert ask("worklist", copy, "--out", out, *options).exit_code == 0
    listed = [json.loads(line)["data"] for line in out.read_text().splitlines()]
    settings = load_config(copy)
    run = labelling.run_of(Database(settings.database), settings, None)
    of = bench(run, labelling.labels_of(settings))
    assert of.cut is not None
    rows = frame(of.pairs).sort("score", "query_id", "doc_id")
    region = {
        (r["query_id"], r["doc_id"]): n * 10 // len(rows) for n, r in enumerate(rows.to_dicts())
    }
    at = min(region[r["query_id"], r["doc_id"]] for r in rows.to_dicts() if r["score"] >= of.cut)
    counts = [0] * 10
    for task in listed:
        counts[region[task["query_id"], task["doc_id"]]] += 1
    known = frame(of.judgments).select("query_id", "doc_id").unique().rows()
    judged_there = [sum(region.get(pair) == n for pair in known) for n in range(10)]
    full = [seen + asked for seen, asked in zip(judged_there, counts, strict=True)]
    assert full[at] == max(full) and min(full) > 0


def test_a_sheet_for_people_carries_title_text_and_scale_and_comes_back(copy: Path) -> None:
    out = copy.parent / "work.csv"
    assert ask("worklist", copy, "--out", out, "--limit", 4).exit_code == 0
    rows = lines_of(out)
    assert list(rows[0]) == ["query", "docid", "rating", "title", "text", "scale"]
    settings = load_config(copy)
    documents = frame(Database(settings.database).read("documents"))
    texts = dict(documents.select("doc_id", "text").iter_rows())
    assert [row["text"] for row in rows] == [texts[row["docid"]] for row in rows]
    assert {row["scale"] for row in rows} == {"0 1 2 3"}
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=";")
        writer.writeheader()
        writer.writerows(row | {"rating": "2"} for row in rows)
    result = ask("worklist-import", copy, out, "--rater", "ann", "--json")
    assert result.exit_code == 0, result.output
    mine = judged(copy).filter(pl.col("source") == "ann")
    assert sorted(mine["doc_id"].unique()) == sorted({row["docid"] for row in rows})


def test_a_document_that_does_not_exist_is_told_and_not_stored(copy: Path) -> None:
    """As a spreadsheet leaves ids: 001 becomes 1, long numbers 1.23457E+16; blanks do no harm."""
    queries = frame(Database(load_config(copy).database).read("queries"))
    text = queries["text"][0]
    answers = copy.parent / "answers.csv"
    lines = [f"{text},{doc},1" for doc in ("1", "1.23457E+16", " d002 ", "d003", "")]
    answers.write_text("\n".join(["query,docid,rating", *lines]) + "\n")
    result = ask("worklist-import", copy, answers, "--rater", "ann", "--json")
    assert result.exit_code == 7, result.output
    reasons = json.loads(result.stdout)["reasons"]
    assert len(reasons) == 3 and sum("does not exist" in reason for reason in reasons) == 2
    mine = judged(copy).filter(pl.col("source") == "ann")
    assert sorted(mine["doc_id"].unique()) == ["d002", "d003"]


@pytest.mark.parametrize("name", ["../../x", "a b", "\x1b]52;c;x", "x\n", ""])
def test_a_list_that_no_config_could_name_is_refused(labelled_run: Path, name: str) -> None:
    file = labelled_run.parent / "none.csv"
    result = ask("worklist-import", labelled_run, file, "--judgments", name or " ", "--rater", "a")
    assert result.exit_code == 2 and "a name has letters" in result.stderr, result.output


def test_the_scale_is_the_lists_own_or_named(copy: Path) -> None:
    queries = frame(Database(load_config(copy).database).read("queries"))
    answers = copy.parent / "answers.csv"
    answers.write_text(f"query,docid,rating\n{queries['text'][0]},d001,7\n")
    options = [copy, answers, "--rater", "ann"]
    refused = ask("worklist-import", *options)
    assert refused.exit_code == 5 and "not on the scale 0 1 2 3" in refused.stderr
    assert ask("worklist-import", *options, "--grades", "0,10").exit_code == 0
    assert ask("worklist-import", *options, "--grades", "zero").exit_code == 2
    assert ask("worklist-import", *options).exit_code == 0  # 7 is on the list's scale now


def test_quepid_answers_come_back_under_their_raters(copy: Path) -> None:
    out = copy.parent / "work.csv"
    assert ask("worklist", copy, "--out", out, "--limit", 6).exit_code == 0
    rows = lines_of(out)
    before = judged(copy)
    lines = [f"{r['query']},{r['docid']},{i % 3}" for i, r in enumerate(rows)]
    answers = copy.parent / "answers.csv"
    answers.write_text("\n".join(["query,docid,rating", *lines, "no such query,d001,1"]))
    result = ask("worklist-import", copy, answers, "--rater", "ann", "--json")
    assert result.exit_code == 7, result.output  # the unknown query is a reject
    said = json.loads(result.stdout)
    assert (said["answers"], said["rejected"], said["raters"]) == (6, 1, ["ann"])
    after = judged(copy)
    keys = ["query_id", "doc_id", "source", "relevance"]
    old = after.filter(pl.col("source") == "gold")
    assert old.select(keys).sort(keys).equals(before.select(keys).sort(keys))
    new = after.filter(pl.col("source") == "ann")
    assert sorted(new["relevance"].to_list()) == [0, 0, 1, 1, 2, 2]
    assert new["judged_at"].null_count() == 0
    again = ask("worklist-import", copy, answers, "--rater", "ann", "--allow-rejects", "--json")
    assert again.exit_code == 0 and json.loads(again.stdout)["unchanged"] == 6
    assert ask("worklist-import", copy, answers, "--rater", "bob").exit_code == 7
    assert sorted(judged(copy)["source"].unique()) == ["ann", "bob", "gold"]
    Pipeline(load_config(copy)).load_judgments()  # the nightly import leaves people's answers alone
    assert sorted(judged(copy)["source"].unique()) == ["ann", "bob", "gold"]
    raters = ask("agreement", copy, "judgments:j", "--json")
    assert raters.exit_code == 0, raters.output
    assert json.loads(raters.stdout)["nominal"]["value"] == pytest.approx(1.0)
    listed = ask("worklist", copy, "--out", out, "--json")
    assert rows[0] not in lines_of(out)
    assert json.loads(listed.stdout)["pairs"] > 0


def test_an_answer_can_be_changed_by_its_rater_only(copy: Path) -> None:
    answers = copy.parent / "answers.csv"
    text = shown(copy)["query_id"][0]
    queries = frame(Database(load_config(copy).database).read("queries"))
    query = queries.filter(pl.col("query_id") == text)["text"][0]
    for rater, rating in (("ann", 0), ("bob", 2), ("ann", 1)):
        answers.write_text(f"query,docid,rating\n{query},d001,{rating}\n")
        assert ask("worklist-import", copy, answers, "--rater", rater).exit_code == 0
    mine = judged(copy).filter((pl.col("query_id") == text) & (pl.col("doc_id") == "d001"))
    said = dict(mine.filter(pl.col("source") != "gold").select("source", "relevance").rows())
    assert said == {"ann": 1, "bob": 2}


def test_label_studio_answers_carry_their_raters(copy: Path) -> None:
    out = copy.parent / "work.json"
    options = ["--format", "label-studio", "--limit", 3]
    assert ask("worklist", copy, "--out", out, *options).exit_code == 0
    tasks = json.loads(out.read_text())
    for number, task in enumerate(tasks):
        choice = {"from_name": "relevance", "value": {"choices": [str(number)]}}
        task["annotations"] = [
            {"completed_by": {"email": who}, "result": [choice], "created_at": "2026-03-01T10:00Z"}
            for who in ("ann@x.org", "bob@x.org")
        ]
    out.write_text(json.dumps(tasks))
    assert ask("worklist-import", copy, out, "--rater", "ann").exit_code == 2
    result = ask("worklist-import", copy, out, "--judgments", "people", "--json")
    assert result.exit_code == 0, result.output
    rows = judged(copy).filter(pl.col("judgment_list") == "people")
    assert sorted(rows["source"].unique()) == ["ann@x.org", "bob@x.org"]
    assert sorted(rows["relevance"].to_list()) == [0, 0, 1, 1, 2, 2]
    assert {str(t) for t in rows["judged_at"]} == {"2026-03-01 10:00:00+00:00"}


@pytest.mark.parametrize(
    ("content", "name", "options", "code", "message"),
    [
        ("query,docid,rating\n", "a.csv", [], 2, "give --rater NAME"),
        ("query,docid,rating\n", "a.csv", ["--rater", "ann"], 5, "all ratings are empty"),
        ("a,b\n", "a.csv", ["--rater", "ann"], 5, "expected query,docid,rating"),
        ("query,docid,gold\n%s,d001,1\n", "a.csv", ["--rater", "x"], 5, "columns ['gold']"),
        ("query,docid,gold\n%s,d001,1\n", "a.csv", ["--rater", "gold"], 2, "called 'gold'"),
        ("query,docid,labels:a\n%s,d001,1\n", "a.csv", ["--rater", "labels:a"], 2, "labels:a"),
        ("x", "a.txt", [], 2, "expected .csv"),
        (None, "none.csv", ["--rater", "ann"], 4, "no file"),
    ],
)
def test_bad_answers_say_why(
    labelled_run: Path,
    tmp_path: Path,
    content: str | None,
    name: str,
    options: list[str],
    code: int,
    message: str,
) -> None:
    queries = frame(Database(load_config(labelled_run).database).read("queries"))
    if content is not None:
        (tmp_path / name).write_text(content.replace("%s", queries["text"][0]))
    result = ask("worklist-import", labelled_run, tmp_path / name, *options)
    assert result.exit_code == code and message in result.stderr, result.output


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--runs", "ffff"], 4, "no run 'ffff'"),
        (["--query-type", "dense"], 2, "not 'dense'"),
        (["--format", "xls"], 2, ""),
    ],
)
def test_bad_work_lists_say_why(
    labelled_run: Path, tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    result = ask("worklist", labelled_run, "--out", tmp_path / "x", *options)
    assert result.exit_code == code and message in result.stderr
    assert not list(tmp_path.iterdir())
