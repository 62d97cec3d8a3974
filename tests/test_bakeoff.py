"""Several models side by side: one fails, the others go on; what is scored is found again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from configs.load import load_config
from flows.cli import app
from reranking.bakeoff import Row, contenders, pareto
from reranking.runs.listing import list_rows
from reranking.store import Database
from tests.support import judged, tiny
from tests.support.judged import encoded_collection, encoder_folder, first_stage
from tests.support.walk import walk_file


@pytest.fixture(scope="module")
def baked(
    tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path
) -> tuple[Path, list[str], dict[str, Any]]:
    """A reranker, none and one that is not there."""
    folder = tmp_path_factory.mktemp("baked")
    given = [str(judged.collection(folder, cross_encoder))]
    for model in (str(cross_encoder), "none", "./not-there"):
        given += ["--reranker", model]
    return Path(given[0]), given, bake(folder, given)


def bake(folder: Path, given: list[str]) -> dict[str, Any]:
    """Judge the collection by its first stage, and bake."""
    with pytest.MonkeyPatch.context() as patch:
        judged.use_scorer(patch, judged.shuffled)
        judged.judge(folder, first_stage(walk_file(Path(given[0]))[0]))
        done = CliRunner().invoke(app, ["bakeoff", *given, "--json"])
    assert done.exit_code == 0, done.output
    values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return values


def test_a_model_that_fails_is_a_row_and_the_others_go_on(
    baked: tuple[Path, list[str], dict[str, Any]],
) -> None:
    values = baked[2]
    own, plain, lost = values["rows"]
    assert lost["run_id"] is None and "not-there does not exist" in lost["reason"]
    assert values["failed"] == 1 and values["base"] == own["name"]
    assert own["difference"] is None and own["tokens_per_pair"] > 5 and own["megabytes"] > 0
    assert plain["verdict"] and plain["p"] is not None
    assert plain["pairs"] == plain["seconds"] == 0 and plain["pareto"]
    assert all(r["mean_low"] <= r["mean"] <= r["mean_high"] for r in (own, plain))


@pytest.mark.slow
def test_every_encoder_meets_every_reranker(tmp_path: Path, cross_encoder: Path) -> None:
    own, other = (encoder_folder(tmp_path / f"encoder{i}", i) for i in (1, 2))
    given = [str(encoded_collection(tmp_path, cross_encoder, own))]
    for model in (str(cross_encoder), "none"):
        given += ["--reranker", model]
    for model in (str(own), str(other)):
        given += ["--encoder", model]
    values = bake(tmp_path, given)
    assert len({r["run_id"] for r in values["rows"]}) == 4 and values["failed"] == 0
    assert [r["encoder"] for r in values["rows"]] == [str(own)] * 2 + [str(other)] * 2
    told = CliRunner().invoke(app, ["bakeoff", *given, "--dry-run", "--json"])
    rows = json.loads(told.stdout.splitlines()[-1])["rows"]
    assert [r["documents_to_encode"] for r in rows] == [0, 0, 80, 80]


def test_its_measures_are_those_of_the_runs(
    baked: tuple[Path, list[str], dict[str, Any]],
) -> None:
    config, _, values = baked
    first = values["rows"][0]
    told = CliRunner().invoke(app, ["evaluate", str(config), "--run", first["run_id"], "--json"])
    means = json.loads(told.stdout.splitlines()[-1])["measures"]
    [row] = [m for m in means if (m["query_type"], m["measure"]) == ("hybrid", "nDCG@10")]
    assert first["mean"] == pytest.approx(row["reranked"])


def test_a_repeat_scores_nothing_and_draws_a_page(
    baked: tuple[Path, list[str], dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from reranking.scoring.crossencoder import CrossEncoderModel

    config, given, values = baked
    database = Database(load_config(config).database)
    stored = database.need("pair_scores").count_rows()
    monkeypatch.setattr(CrossEncoderModel, "load", judged.refuse)
    out = tmp_path / "bakeoff.html"
    again = CliRunner().invoke(app, ["bakeoff", *given, "--report", str(out)])
    assert again.exit_code == 0, again.output
    assert "failed" in again.output and database.need("pair_scores").count_rows() == stored
    page = out.read_text("utf-8")
    assert "not-there does not exist" in page and "quality against cost" in page
    assert [r["run_id"] for r in values["rows"] if r["run_id"]]


@pytest.mark.slow
def test_a_limit_ends_it_to_be_continued_and_a_repeat_goes_on(
    tmp_path: Path, cross_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is that of all models together, and no model is said to have failed."""
    scorer = judged.use_scorer(monkeypatch, judged.shuffled)
    config = str(judged.collection(tmp_path, cross_encoder, search__query_types=["fts"]))
    other = tiny.tiny_cross_encoder(tmp_path / "other", seed=9)
    given = [config, "--reranker", str(cross_encoder), "--reranker", str(other), "--json"]
    whole = json.loads(CliRunner().invoke(app, ["run", config, "--json"]).stdout.splitlines()[-1])
    most = whole["pairs"] // 3
    stops = 0
    limit = f"execution.max_pairs={most}"
    while (done := CliRunner().invoke(app, ["bakeoff", *given, "--set", limit])).exit_code == 8:
        stops += 1
        assert "to be continued" in done.stderr and "failed" not in done.output
        assert stops < 9
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["failed"] == 0 and stops > 1
    assert len(scorer.pairs) == 2 * whole["pairs"]  # nothing was scored twice
    statuses = [r["status"] for r in list_rows(Database(str(tmp_path / "db.lancedb")))]
    assert statuses == ["done", "done"]


def test_a_dry_run_says_what_it_costs(baked: tuple[Path, list[str], dict[str, Any]]) -> None:
    _, given, _ = baked
    told = CliRunner().invoke(app, ["bakeoff", *given, "--dry-run", "--json"])
    rows = json.loads(told.stdout.splitlines()[-1])["rows"]
    assert rows[0]["pairs"] > 0 and rows[0]["to_score"] == 0
    assert "not-there" in rows[2]["reason"]


def test_contenders_are_each_once_and_keep_nothing_of_another_model(
    baked: tuple[Path, list[str], dict[str, Any]], cross_encoder: Path
) -> None:
    config = load_config(baked[0], ["rerank.max_length=40", "rerank.top_k=5"])
    made = contenders(config, [str(cross_encoder), "none", "other/model", "none"])
    assert [c.reranker for c in made] == [str(cross_encoder), None, "other/model"]
    rerank = made[2].config.rerank
    assert rerank is not None and (rerank.max_length, rerank.top_k) == (None, 5)
    assert [c.config.name for c in made] == [config.name, "bakeoff", "bakeoff"]
    own = made[0].config.rerank
    assert own is not None and own.max_length == 40


def test_the_front_has_what_nothing_beats() -> None:
    def row(name: str, mean: float, seconds: float | None) -> Row:
        return Row(name, None, None, mean=mean, seconds=seconds)

    rows = [row("free", 0.3, 0), row("good", 0.5, 10), row("slow", 0.5, 20), row("?", 0.9, None)]
    assert pareto([*rows, row("bad", 0.2, 5)]) == {"free", "good"}
