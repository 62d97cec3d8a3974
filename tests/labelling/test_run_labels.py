"""Labels from a finished run: stored with evidence, found again, stale, and never a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner, Result

from configs.load import ConfigFault, load_config
from flows.cli import app
from reranking.arrow import frame
from reranking.errors import InputError, MissingResource
from reranking.labelling import answers as labelling
from reranking.labelling.answers import label_stored_run
from reranking.labelling.calibration import Calibration, Uncalibrated
from reranking.labelling.label_sets import (
    find_label_set,
    list_label_sets,
    read_labels,
    stale_labels,
)
from reranking.labelling.run_labels import bench, calibration_of
from reranking.pipeline import Pipeline
from reranking.runs.run import Run
from reranking.scoring.crossencoder import CrossEncoderModel
from reranking.scoring.encoder import SentenceEncoder
from reranking.store import Database
from tests.support import tiny
from tests.support.labelled import copied, scored
from tests.support.walk import walk_file


@pytest.fixture
def made(labelled_run: Path) -> tuple[Path, Run]:
    config = load_config(labelled_run)
    return labelled_run, labelling.run_of(Database(config.database), config, None)


@pytest.fixture
def copy(labelled_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run's folder, for tests that write."""
    return copied(labelled_run, tmp_path)


@pytest.fixture
def models_allowed() -> None:
    """For tests that make runs of their own."""


@pytest.fixture(autouse=True)
def no_model(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labelling needs no model: loading one is an error, except where a test says so."""
    if "models_allowed" in request.fixturenames:
        return
    request.getfixturevalue("labelled_run")  # the run itself is scored before

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(CrossEncoderModel, "load", refuse)
    monkeypatch.setattr(SentenceEncoder, "__init__", refuse)


def labelled(config: Path, *overrides: str) -> dict[str, Any]:
    return label_stored_run(load_config(config, overrides))


def database_of(config: Path) -> Database:
    return Database(load_config(config).database)


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_labels_are_stored_with_their_evidence(copy: Path, made: tuple[Path, Run]) -> None:
    values = labelled(copy)
    assert values["status"] == "done"
    database = database_of(copy)
    row = find_label_set(database, "answers")
    assert row["label_set"] == values["label_set"] and row["runs"] == [made[1].run_id]
    assert json.loads(row["rule"]) == {"name": "half", "on": "probability", "at_least": 0.5}
    calibration = calibration_of(row)
    assert isinstance(calibration, Calibration)
    assert calibration.fingerprint == values["calibration"]["fingerprint"]
    assert calibration.reranker == made[1].reranker
    labels = frame(read_labels(database, row["label_set"]))
    pairs = scored(made[1]).sort("query_id", "doc_id")
    assert labels.select("query_id", "doc_id", "query_hash", "doc_hash", "score").equals(
        pairs.select("query_id", "doc_id", "query_hash", "doc_hash", "score")
    )
    expected = calibration.apply(pairs["score"].to_numpy(), calibration.reranker)
    assert labels["probability"].to_list() == pytest.approx(expected.tolist())
    assert labels["label"].to_list() == [int(p >= 0.5) for p in expected]
    assert values["labels"]["positive"] == labels["label"].sum()


def test_the_same_inputs_are_found_and_nothing_is_computed(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = labelled(copy)
    database = database_of(copy)
    versions = [database.need(t).version for t in ("labels", "label_sets")]
    monkeypatch.setattr("reranking.labelling.run_labels.apply_rule", None)
    again = labelled(copy)
    assert again["status"] == "found" and again["label_set"] == first["label_set"]
    assert again["labels"] == first["labels"]
    assert [database.need(t).version for t in ("labels", "label_sets")] == versions


def test_another_rule_replaces_the_name_whole(copy: Path) -> None:
    first = labelled(copy)["label_set"]
    second = labelled(copy, "labels.apply=best-two")["label_set"]
    database = database_of(copy)
    assert first != second
    assert [row["label_set"] for row in list_label_sets(database)] == [second]
    assert set(database.read("labels").column("label_set").to_pylist()) == {second}
    with pytest.raises(MissingResource, match="replaced"):
        read_labels(database, first)
    other = labelled(copy, "labels.label_set=other")["label_set"]
    assert {row["label_set"] for row in list_label_sets(database)} == {second, other}


@pytest.mark.slow
def test_a_kill_between_the_two_commits_leaves_no_label_set(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = labelled(copy)["label_set"]
    merge = Database.merge

    def killed(self: Database, name: str, *rest: Any, **more: Any) -> None:
        if name == "label_sets":
            raise KeyboardInterrupt
        merge(self, name, *rest, **more)

    monkeypatch.setattr(Database, "merge", killed)
    with pytest.raises(KeyboardInterrupt):
        labelled(copy, "labels.apply=best-two")
    database = database_of(copy)
    assert find_label_set(database, "answers")["label_set"] == first
    assert read_labels(database, first).num_rows
    monkeypatch.setattr(Database, "merge", merge)
    values = labelled(copy, "labels.apply=best-two")
    assert values["status"] == "done"
    assert database.need("labels").count_rows() == sum(values["labels"].values())


@pytest.mark.slow
def test_racing_processes_leave_one_label_per_pair(copy: Path) -> None:
    values = labelled(copy)
    database = database_of(copy)
    database.append("labels", database.read("labels"))  # the other process' commit
    assert read_labels(database, values["label_set"]).num_rows == sum(values["labels"].values())
    assert labelled(copy)["status"] == "found"


def test_lost_labels_are_made_again(copy: Path) -> None:
    first = labelled(copy)
    database = database_of(copy)
    database.need("labels").delete("query_id = 'q000'")
    with pytest.raises(MissingResource, match="are gone"):
        read_labels(database, first["label_set"])
    again = labelled(copy)
    assert again["status"] == "done" and again["labels"] == first["labels"]


def test_comparing_stores_nothing(copy: Path) -> None:
    result = ask("label", copy, "--compare", "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout)
    assert [row["rule"] for row in values["rules"]] == ["half", "sure", "best-two", "both"]
    assert {row["pairs"] for row in values["rules"]} == {values["pairs"]}
    assert values["rules"][1]["unsure"] > 0
    assert "label_sets" not in database_of(copy).names()
    shown = ask("label", copy, "--compare")
    assert "Brier" in shown.stdout and "half *" in shown.stdout


def test_too_few_judgments_give_raw_labels_marked_uncalibrated(copy: Path) -> None:
    (copy.parent / "judgments.tsv").write_text("q000 0 d000 1\nq001 0 d001 1\n")
    Pipeline(load_config(copy)).load_judgments()
    values = labelled(copy)
    assert not values["calibration"]["calibrated"]
    assert "needed" in values["calibration"]["reason"] or "relevant" in str(values["calibration"])
    database = database_of(copy)
    row = find_label_set(database, "answers")
    assert isinstance(calibration_of(row), Uncalibrated)
    assert json.loads(row["rule"])["on"] == "score"
    labels = frame(read_labels(database, row["label_set"]))
    assert labels["probability"].null_count() == len(labels)
    assert labels["label"].to_list() == [int(s >= 0) for s in labels["score"]]


def test_no_judgments_at_all_is_no_error(copy: Path) -> None:
    values = labelled(copy, "judgments=null", "labels.apply=both")
    assert values["calibration"]["judged"] == 0
    assert values["agreement"] is None and values["conflicts"] == 0


def test_a_goal_is_reached_or_said_to_be_out_of_reach(copy: Path) -> None:
    easy = ["labels.target_precision=0.3", "labels.apply=target_precision"]
    values = labelled(copy, *easy)
    assert values["status"] == "done" and values["goal"]["reached"]
    assert values["rule"] == "target_precision"
    result = ask("label", copy, "--compare", "--set", "labels.target_precision=0.999")
    assert result.exit_code == 0  # `apply` names another rule
    assert "not demonstrable" in result.stdout
    hard = labelled(copy, "labels.target_precision=0.999", "labels.apply=target_precision")
    assert hard["status"] == "not demonstrable" and hard["label_set"] is None


def test_a_stored_calibration_is_refused_for_another_reranker(copy: Path) -> None:
    labelled(copy)
    settings = ["labels.calibration=answers", "labels.label_set=again"]
    assert labelled(copy, *settings)["calibration"]["calibrated"]
    config = load_config(copy, settings)
    database = database_of(copy)
    plan = labelling.run_of(database, config, None)
    stranger = "ab" * 16
    scores = database.read("pair_scores")
    marks = pl.Series([bytes.fromhex(stranger)] * scores.num_rows, dtype=pl.Binary)
    database.append("pair_scores", frame(scores).with_columns(reranker=marks).to_arrow())
    other = replace(plan, reranker=stranger)
    with pytest.raises(InputError, match="belongs to reranker"):
        bench(other, labelling.labels_of(config))


def test_people_have_the_last_word_and_conflicts_are_listed(copy: Path) -> None:
    before = database_of(copy).read("judgments").sort_by("doc_id")
    values = labelled(copy)
    assert database_of(copy).read("judgments").sort_by("doc_id").equals(before)
    labels = frame(read_labels(database_of(copy), values["label_set"]))
    both = labels.join(frame(before), on=["query_id", "doc_id"])
    differ = both.filter((pl.col("label") >= 1) != (pl.col("relevance") >= 1))
    assert values["conflicts"] == differ.height > 0
    first = values["first_conflicts"][0]
    assert first["source"] == "gold" and (first["label"] >= 1) != (first["relevance"] >= 1)


def test_an_edited_text_makes_its_label_stale(copy: Path, made: tuple[Path, Run]) -> None:
    label_set = labelled(copy)["label_set"]
    database = database_of(copy)
    assert labelling.label_sets(database.uri)[0]["stale"] == 0
    documents = tiny.documents(400)
    labels = read_labels(database, label_set)
    edited = labels.column("doc_id")[0].as_py()
    changed = [d | {"text": "lamp"} if d["doc_id"] == edited else d for d in documents]
    path = tiny.write_jsonl(copy.parent / "edited.jsonl", changed)
    Pipeline(load_config(copy, [f"documents.source.path={path}"])).ingest()
    reasons = stale_labels(labels, replace(made[1], database=database))
    assert set(reasons.column("doc_id").to_pylist()) == {edited}
    assert set(reasons.column("reason").to_pylist()) == {"document edited"}
    out = copy.parent / "labels.parquet"
    assert ask("labels", "answers", "--out", out, "--config", copy).exit_code == 0
    written = pl.read_parquet(out)
    assert written.filter(pl.col("stale").is_not_null())["doc_id"].unique().to_list() == [edited]
    listed = ask("labels", "--config", copy, "--json")
    assert json.loads(listed.stdout)[0]["stale"] == reasons.num_rows


@pytest.mark.usefixtures("models_allowed")
def test_two_rerankers_agree_or_the_pair_is_unsure(copy: Path, tmp_path: Path) -> None:
    other = tiny.tiny_cross_encoder(tmp_path / "other", seed=8)
    rule = {"name": "agreed", "at_least": 0.5, "other_at_least": 0.5}
    changes = [f"labels.other_model={other}", f"labels.rules={json.dumps([rule])}"]
    changes.append("labels.apply=agreed")
    with pytest.raises(MissingResource, match="no run in .* has the reranker"):
        labelled(copy, *changes)
    second, _ = walk_file(copy, f"rerank.model_name={other}")
    values = labelled(copy, *changes)
    assert values["labels"]["unsure"] > 0
    runs = (f"run:{labelling.run_of(database_of(copy), load_config(copy), None).run_id}",)
    result = ask("agreement", copy, *runs, f"run:{second.run_id}", "--json")
    assert result.exit_code == 0, result.output
    both = json.loads(result.stdout)
    assert both["pairs"] == values["pairs"] and -1 <= both["kappa"]["value"] <= 1
    assert both["disagreements"][0]["gap"] == 1


def test_labels_and_judgments_agree_by_the_tables(copy: Path) -> None:
    values = labelled(copy)
    result = ask("agreement", copy, "labels:answers", "judgments:j", "--json")
    found = json.loads(result.stdout)
    assert found["kappa"] == values["agreement"]["kappa"]
    labels = frame(read_labels(database_of(copy), values["label_set"]))
    both = labels.join(frame(database_of(copy).read("judgments")), on=["query_id", "doc_id"])
    crossed = {(r["left"], r["right"]): r["count"] for r in found["confusion"]}
    expected = both.group_by("label", "relevance").len().rows()
    assert crossed == {(label, grade): count for label, grade, count in expected}
    assert {right for _, right in crossed} == {0, 1, 2}
    turned = json.loads(ask("agreement", copy, "judgments:j", "labels:answers", "--json").stdout)
    assert turned["kappa"]["value"] == pytest.approx(found["kappa"]["value"])
    shown = ask("agreement", copy, "labels:answers", "judgments:j")
    assert "Grade by grade" in shown.stdout and "kappa" in shown.stdout


@pytest.mark.parametrize(
    ("sides", "code", "message"),
    [
        (["answers"], 2, "needs a second grading"),
        (["x:answers", "judgments:j"], 2, "expected labels:NAME, judgments:LIST or run:ID"),
        (["labels:nobody", "judgments:j"], 4, "no label set 'nobody'"),
        (["judgments:none", "judgments:j"], 4, "no judgment list none"),
    ],
)
def test_gradings_that_are_none_are_said(
    made: tuple[Path, Run], sides: list[str], code: int, message: str
) -> None:
    result = ask("agreement", made[0], *sides)
    assert result.exit_code == code and message in result.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("labels.rules=[]", "labels need rules or a target_precision"),
        ("labels.apply=nobody", "apply names none of the rules"),
        ("labels.rules=[{name: a, top_n: 1, other_at_least: 0}]", "apply names none"),
        ("labels.label_set=a@b", "label_set"),
        ("training.splits={train: 0.5}", "add up to 1"),
        ("training.positives=labels", "needs training.label_set"),
    ],
)
def test_faults_of_the_config_are_said(made: tuple[Path, Run], change: str, message: str) -> None:
    with pytest.raises(ConfigFault, match=message):
        load_config(made[0], [change])


def test_a_rule_that_says_nothing_is_refused(made: tuple[Path, Run]) -> None:
    with pytest.raises(ConfigFault, match="labels.rules.*rule 'empty': it needs one of"):
        labelled(made[0], "labels.rules=[{name: empty}]", "labels.apply=empty")


def test_a_config_without_labels_or_run_says_so(made: tuple[Path, Run]) -> None:
    result = ask("label", made[0], "--set", "labels=null")
    assert result.exit_code == 2 and "no `labels`" in result.stderr
    result = ask("label", made[0], "--compare", "--run", "ffff")
    assert result.exit_code == 4
    result = ask("label", made[0], "--compare", "--set", "queries.query_set=other")
    assert result.exit_code == 4


def test_the_command_labels_and_says_what_was_there(copy: Path) -> None:
    result = ask("label", copy, "--json")
    assert result.exit_code == 0, result.output
    values = json.loads(result.stdout.splitlines()[-1])
    assert values["status"] == "done"
    goal = ["--set", "labels.target_precision=0.999", "--set", "labels.apply=target_precision"]
    result = ask("label", copy, *goal)
    assert result.exit_code == 1 and "nothing was labelled" in result.stderr
    shown = ask("label", copy)
    assert "it was there already" in shown.stdout and "contradict" in shown.stdout


def test_the_key_on_is_no_boolean(made: tuple[Path, Run], tmp_path: Path) -> None:
    """YAML 1.1 reads a bare `on` as true; here it is the name of a rule's scale."""
    text = made[0].read_text().replace("'on': score", "on: score")
    assert "on: score" in text
    (tmp_path / "config.yaml").write_text(text)
    given = load_config(tmp_path / "config.yaml", ["training.on=score"])
    assert given.labels is not None
    assert [rule.on for rule in given.labels.rules][2:] == ["score", "score"]
    assert given.training.on == "score"


def test_labels_are_written_with_their_texts(copy: Path) -> None:
    label_set = labelled(copy)["label_set"]
    out = copy.parent / "labels.parquet"
    asked = ["labels", label_set, "--out", out, "--with-text", "--config", copy]
    result = CliRunner().invoke(app, [str(a) for a in asked])
    assert result.exit_code == 0, result.output
    rows = pl.read_parquet(out)
    database = database_of(copy)
    for name, table, key in (("query", "queries", "query_id"), ("document", "documents", "doc_id")):
        texts = dict(frame(database.read(table)).select(key, "text").iter_rows())
        assert rows[name].to_list() == [texts[one] for one in rows[key]]
