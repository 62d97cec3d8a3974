"""Stored runs compared: sides, verdicts, drift, gates, and the commands that say it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from configs.evaluation import DEFAULT_MEASURES, ComparisonSettings
from configs.load import load_config
from flows.cli import app
from reranking.corpus.corpus import texts_of
from reranking.errors import GateFailed, InputError, MissingResource
from reranking.evaluation.run_comparison import compare_sides
from reranking.evaluation.sides import Side, find_side
from reranking.order import refuse_failed
from reranking.pipeline import Pipeline
from reranking.runs.promotion import promote
from reranking.runs.run import Run
from tests.support import judged, tiny
from tests.support.judged import first_stage
from tests.support.walk import database_of, walk_file

COMMANDS = CliRunner()
BETTER = {"metric": "nDCG@10", "min_absolute_change": 0.001}


class Collection:
    """One database with three finished runs: a useless reranker's, a shuffled one's, a model's."""

    def __init__(self, folder: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.config = judged.collection(folder, model)
        self.model = walk_file(self.config)[0]
        judged.judge(folder, first_stage(self.model))
        Pipeline(load_config(self.config)).load_judgments()
        judged.use_scorer(monkeypatch, self.as_first_stage(self.model))
        self.useless = walk_file(self.config, "rerank.max_length=40", ingest=False)[0]
        judged.use_scorer(monkeypatch, judged.shuffled)
        self.shuffled = walk_file(self.config, "rerank.max_length=32", ingest=False)[0]
        self.database = database_of(self.model)

    def as_first_stage(self, run: Run) -> judged.Score:
        """A reranker that does nothing: its scores fall in the order of the hybrid first stage."""
        database = database_of(run)
        ids = {q["text"]: q["query_id"] for q in run.query_rows.to_pylist()}
        ranked = first_stage(run)
        texts = texts_of(database, run.corpus, sorted({d for r in ranked.values() for d in r}))
        places = {
            (query_id, texts[doc_id]): place
            for query_id, documents in ranked.items()
            for place, doc_id in enumerate(documents)
        }
        return lambda query, text: -float(places.get((ids[query], text), 1000))

    def compared(self, base: str, *others: str, **options: Any) -> Any:
        sides: list[Side] = [find_side(self.database, name) for name in (base, *others)]
        settings = ComparisonSettings()
        return compare_sides(sides[0], sides[1:], "j", settings, ("RR@10",), **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> Collection:
    with pytest.MonkeyPatch.context() as patch:
        return Collection(tmp_path_factory.mktemp("compare"), cross_encoder, patch)


def test_a_known_effect_is_found_in_both_directions(made: Collection) -> None:
    found = made.compared(made.shuffled.run_id, made.useless.run_id)
    assert found.comparisons[0].verdict == "improved"
    back = made.compared(made.useless.run_id, made.shuffled.run_id)
    assert back.comparisons[0].verdict == "regressed"
    assert found.comparisons[0].primary.paired.candidate == pytest.approx(1.0)
    assert "reranker" in found.differing(0)
    assert found.sentence(0).startswith(
        f"{made.useless.run_id[:8]} against {made.shuffled.run_id[:8]}: improved; nDCG@10 (hybrid)"
    )


def test_a_run_against_its_own_first_stage(made: Collection) -> None:
    found = made.compared(f"{made.useless.run_id}:first", made.useless.run_id)
    assert found.comparisons[0].verdict == "no difference"
    assert found.comparisons[0].agreement.identical == judged.QUERIES
    assert made.compared(f"{made.model.run_id}:first", made.model.run_id).comparisons[
        0
    ].verdict == ("regressed")


def test_several_candidates_compete(made: Collection) -> None:
    told = made.compared(made.shuffled.run_id, made.useless.run_id, made.model.run_id).to_dict()
    assert [c["run_id"] for c in told["comparisons"]] == [made.useless.run_id, made.model.run_id]
    p = told["comparisons"][0]["rows"][0]
    assert p["p_corrected"] >= p["p"]
    assert json.dumps(told, allow_nan=False)
    assert told["comparisons"][0]["moved"][0]["text"].split()[-1].startswith("q")


def test_agreement_is_told_without_any_judgments(made: Collection) -> None:
    sides = [find_side(made.database, r.run_id) for r in (made.useless, made.shuffled)]
    found = compare_sides(sides[0], sides[1:], None, ComparisonSettings())
    assert found.comparisons[0].verdict == "cannot tell"
    assert found.comparisons[0].agreement.queries == judged.QUERIES
    assert 0 < found.comparisons[0].agreement.rbo < 1
    assert "no judgments" in found.sentence(0)


def test_a_promoted_name_is_a_side(made: Collection) -> None:
    promote(made.database, made.shuffled.run_id, "yesterday")
    named = find_side(made.database, "yesterday:first")
    assert (named.run.run_id, named.stage) == (made.shuffled.run_id, "first")
    assert named.name == f"yesterday ({made.shuffled.run_id[:8]}):first"
    with pytest.raises(MissingResource, match="tomorrow"):
        find_side(made.database, "tomorrow")


def gated(made: Collection, run: Run, *gates: dict[str, Any], against: str = "first") -> Any:
    overrides = [f"gates={json.dumps(gates)}", f"comparison.against={against}"]
    pipeline = Pipeline(load_config(made.config, overrides))
    return pipeline.gates(pipeline.comparisons(run))


def test_a_reranker_that_does_nothing_fails_its_gate(made: Collection) -> None:
    found = gated(made, made.useless, BETTER)
    assert not found["passed"]
    assert "gained +0.0000, must gain at least +0.001" in found["reasons"][0]
    with pytest.raises(GateFailed, match="gained") as failed:
        refuse_failed({"run_id": "r", "gates": found})
    assert failed.value.exit_code == 1 and failed.value.values["run_id"] == "r"


def test_a_shuffled_reranker_fails_even_a_lenient_gate(made: Collection) -> None:
    lenient = {"metric": "nDCG@10", "min_absolute_change": -0.05}
    assert not gated(made, made.shuffled, lenient)["passed"]
    assert gated(made, made.useless, lenient)["passed"]
    assert not gated(made, made.shuffled, {"metric": "nDCG@10", "alpha": 0.05})["passed"]


def test_a_real_improvement_passes(made: Collection) -> None:
    promote(made.database, made.shuffled.run_id, "production")
    gates = [BETTER | {"alpha": 0.05}, {"metric": "RR@10", "threshold": 0.9, "min_judged": 0.5}]
    slices = {"metric": "nDCG@10", "min_absolute_change": 0.0, "slices": ["tag:odd", "*"]}
    found = gated(made, made.useless, *gates, slices, against="production")
    assert found["passed"], found["reasons"]
    assert found["verdict"] == "improved"
    assert {c["slice"] for c in found["conditions"]} >= {None, "tag:odd", "tag:even"}


def test_without_a_promoted_run_changes_fail_and_thresholds_hold(made: Collection) -> None:
    found = gated(made, made.useless, BETTER, against="nobody")
    assert not found["passed"]
    assert "rescore promote RUN_ID --as nobody" in found["reasons"][-1]
    assert gated(made, made.useless, {"metric": "RR@10", "threshold": 0.5}, against="nobody")[
        "passed"
    ]


def test_gates_without_judgments_are_refused(made: Collection) -> None:
    from configs.load import ConfigFault

    with pytest.raises(ConfigFault, match="gates need judgments"):
        load_config(made.config, [f"gates={json.dumps([BETTER])}", "judgments=null"])
    with pytest.raises(ConfigFault, match="no condition"):
        load_config(made.config, ['gates=[{"metric": "nDCG@10"}]'])


def ask(*arguments: object) -> Result:
    return COMMANDS.invoke(app, [str(a) for a in arguments])


def test_the_command_gives_verdict_table_and_moves(made: Collection) -> None:
    given = [made.shuffled.run_id[:8], made.useless.run_id[:8], "--config", made.config]
    text = ask("compare", *given)
    assert text.exit_code == 0, text.output
    for expected in ("improved", "nDCG@10 *", "Queries that moved most", "overlap@10", "grade 1"):
        assert expected in text.output
    told = json.loads(ask("compare", *given, "--json").stdout)
    assert told["judgment_list"] == "j"
    assert told["comparisons"][0]["verdict"] == "improved"


def test_without_a_config_the_runs_name_their_judgments(made: Collection) -> None:
    database = made.database.uri
    given = [made.shuffled.run_id, made.useless.run_id, "--database", database, "--json"]
    told = json.loads(ask("compare", *given, "--query-type", "fts", "--primary", "AP").stdout)
    assert told["judgment_list"] == "j"
    primary = next(r for r in told["comparisons"][0]["rows"] if r["primary"])
    assert (primary["query_type"], primary["measure"]) == ("fts", "AP")
    measures = [r["measure"] for r in told["comparisons"][0]["rows"] if r["query_type"] == "fts"]
    assert measures == ["AP", *DEFAULT_MEASURES]  # the same with and without a config
    assert load_config(made.config, ["judgments={judgment_list: j}"]).judgments.measures == (
        DEFAULT_MEASURES
    )


def test_bad_arguments_are_said(made: Collection) -> None:
    runs = [made.shuffled.run_id, made.useless.run_id]
    assert ask("compare", *runs, "--config", made.config, "--judgments", "none").exit_code == 4
    assert ask("compare", *runs, "--config", made.config, "--primary", "nDCG@x").exit_code == 2
    assert ask("compare", runs[0], "ffff", "--config", made.config).exit_code == 4
    assert ask("compare", *runs).exit_code == 2


def test_history_is_told_on_todays_judgments(made: Collection) -> None:
    asked = ["--config", made.config, "--query-type", "hybrid", "--json"]
    runs = [made.model.run_id, made.useless.run_id, made.shuffled.run_id]
    rows = json.loads(ask("history", *asked, "--measure", "RR@10").stdout)
    assert [r["run_id"] for r in rows] == runs  # another model is another night of the pipeline
    everything = ["--database", made.database.uri, "--query-type", "hybrid"]
    rows = json.loads(ask("history", *everything, "--json").stdout)
    assert [r["run_id"] for r in rows] == runs
    gain = rows[1]["value"] - rows[0]["value"]
    assert rows[1]["value"] == pytest.approx(1.0) and rows[1]["change"] == pytest.approx(gain)
    assert made.useless.run_id[:8] in ask("history", *everything).output


def test_drifted_inputs_are_left_out_and_said(tmp_path: Path, cross_encoder: Path) -> None:
    path = judged.collection(tmp_path, cross_encoder)
    before = walk_file(path)[0]
    judged.judge(tmp_path, first_stage(before))
    documents = [json.loads(s) for s in (tmp_path / "documents.jsonl").read_text().splitlines()]
    documents[5]["text"] = "river stone entirely new"
    tiny.write_jsonl(tmp_path / "documents.jsonl", documents)
    asked = [json.loads(s) for s in (tmp_path / "queries.jsonl").read_text().splitlines()]
    asked[7]["text"] = "a reworded question"
    tiny.write_jsonl(tmp_path / "queries.jsonl", asked)
    Pipeline(load_config(path)).load_judgments()
    after = walk_file(path)[0]
    database = before.database
    sides = [find_side(database, r.run_id) for r in (before, after)]
    found = compare_sides(sides[0], sides[1:], "j", ComparisonSettings())
    reasons = {n.reason: n for n in found.comparisons[0].notices}
    assert reasons["worded differently in the two runs"].examples == ("q007",)
    changed = reasons["with a judged document whose text differs between the runs"]
    assert changed.drift and changed.queries > 0
    left = found.comparisons[0].primary.paired.queries
    assert left == judged.QUERIES - 1 - changed.queries
    with pytest.raises(InputError, match="documents"):
        compare_sides(sides[0], sides[1:], "j", ComparisonSettings(), strict=True)
    # and the other way round: the grades of the reworded query were given for its old text
    back = compare_sides(sides[1], sides[1:], "j", ComparisonSettings())
    told = {n.reason: n.examples for n in back.comparisons[0].notices}
    assert told["judged for another wording"] == ("q007",)
