"""What an earlier version wrote is read as it was meant: ids, plans, label sets, fingerprints."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from configs.load import load_config
from flows.cli import app
from reranking.labelling.answers import label_stored_run
from reranking.labelling.calibration import Calibration
from reranking.labelling.label_sets import find_label_set
from reranking.labelling.run_labels import calibration_of
from reranking.pipeline import Pipeline
from reranking.runs.listing import find_run
from reranking.runs.promotion import promoted_run
from reranking.runs.settings import pipeline_of
from reranking.scoring.crossencoder import CrossEncoderModel
from reranking.sources.open import source_fingerprint
from reranking.store import Database
from tests.support.sources import source
from tests.support.walk import walk_file

DATA = Path(__file__).parent / "data"
CONFIGS = ["all.yaml", "first-stage.yaml"]


@pytest.fixture(scope="module")
def ids() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((DATA / "stored.json").read_text())
    return read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the folder, at another place than it was written."""
    with zipfile.ZipFile(DATA / "stored.zip") as stored:
        stored.extractall(tmp_path)
    return tmp_path


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(CrossEncoderModel, "load", refuse)
    monkeypatch.setattr("sentence_transformers.SentenceTransformer", refuse)


def rows(database: Database) -> dict[str, int]:
    return {n: database.need(n).count_rows() for n in database.names()}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_stored_run_is_finished_and_nothing_is_computed(
    folder: Path, ids: dict[str, Any], name: str, no_model: None
) -> None:
    run, counts = walk_file(folder / name)
    assert run.finished and counts == {}
    assert run.run_id == ids["runs"][name]["run_id"]
    assert run.search_id == ids["runs"][name]["search_id"]
    assert run.queries.content == ids["queries_content"]
    filtered = "" if name == "all.yaml" else "filtered_"
    assert run.documents_content == ids[f"{filtered}documents_content"]
    after = rows(Database(str(folder / "db")))
    assert after.pop("ingests") == 1  # which the earlier version did not note
    assert {**after, "rejects": 2} == ids["rows"]  # rejects go by their source's place


def test_every_row_is_recognised(folder: Path, ids: dict[str, Any], no_model: None) -> None:
    report = Pipeline(load_config(folder / "all.yaml")).ingest()
    assert report is not None
    assert (report["inserted"], report["updated"], report["unchanged"]) == (0, 0, 90)
    table = Database(str(folder / "db")).read("documents", columns=["doc_id", "row_hash"])
    hashes = {r["doc_id"]: r["row_hash"].hex() for r in table.to_pylist()}
    assert hashes == ids["row_hashes"]


def test_models_have_the_fingerprints_they_had(folder: Path, ids: dict[str, Any]) -> None:
    pipeline = Pipeline.load(folder / "all.yaml")
    encoder, reranker = pipeline.encoder, pipeline.reranker
    assert encoder is not None and encoder.fingerprint == ids["encoder"]
    assert reranker is not None and reranker.fingerprint.hex() == ids["reranker"]


@pytest.mark.parametrize("name", CONFIGS)
def test_stored_plans_and_configs_are_read(folder: Path, ids: dict[str, Any], name: str) -> None:
    run = find_run(Database(str(folder / "db")), ids["runs"][name]["run_id"][:8])
    assert run.status == "done" and run.config is not None
    assert run.stored["settings"] == ids["runs"][name]["pipeline"]  # retention counts by it
    assert pipeline_of(run.config).includes(pipeline_of(load_config(folder / name)))
    assert run.stored["pipeline"] == str(pipeline_of(run.config))
    assert len(run.chunks) == (2 if name == "all.yaml" else 1)
    assert run.results().num_rows == ids["rows"][run.results_table]
    # What the earlier version wrote, key by key; the database's place is that of the copy.
    stored = json.loads(run.stored["plan_json"]) | {"database": run.database.uri}
    assert json.loads(run.plan_json()) == stored | {"search": json.loads(run.plan_json())["search"]}
    assert stored["search"].items() <= json.loads(run.plan_json())["search"].items()


def test_sources_have_the_fingerprints_they_had(ids: dict[str, Any]) -> None:
    files = {"documents": "documents.jsonl", "queries": "queries.jsonl"}
    for kind, file in {**files, "judgments": "judgments.tsv"}.items():
        form = "trec" if kind == "judgments" else "jsonl"
        spec = source(form, f"{ids['home']}/{file}", None, None, {})
        assert source_fingerprint(spec, kind) == ids["sources"][kind]


def test_labels_their_rule_and_calibration_are_read_and_found_again(
    folder: Path, ids: dict[str, Any], no_model: None
) -> None:
    database = Database(str(folder / "db"))
    row = find_label_set(database, "answers")
    assert row["label_set"] == ids["label_set"]
    assert json.loads(row["rule"]) == {"name": "half", "on": "probability", "at_least": 0.5}
    calibration = calibration_of(row)
    assert isinstance(calibration, Calibration) and calibration.reranker == ids["reranker"]
    run = ids["runs"]["all.yaml"]["run_id"]
    again = label_stored_run(load_config(folder / "all.yaml"), run)
    assert (again["status"], again["label_set"]) == ("found", ids["label_set"])


def test_the_promoted_run_is_found_from_another_folder(folder: Path, ids: dict[str, Any]) -> None:
    database = folder / "db"
    run = ids["runs"]["all.yaml"]["run_id"]
    assert promoted_run(Database(str(database)), "production") == run
    done = CliRunner().invoke(app, ["show", run[:8], "--database", str(database), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1])["run_id"] == run


def test_stored_scores_are_used_by_a_deeper_run(folder: Path, ids: dict[str, Any]) -> None:
    """The model's scores of today are those that are stored: the probe compares them at load.

    Their lengths were not stored then: that is told, and the new column rewrites nothing.
    """
    data = folder / "db" / "pair_scores.lance" / "data"
    before = {file.name: file.read_bytes() for file in data.iterdir()}
    run, counts = walk_file(folder / "all.yaml", "search.limit=9")
    assert run.run_id != ids["runs"]["all.yaml"]["run_id"]
    stored = ids["rows"]["pair_scores"]
    assert 0 < counts["scored"] < stored < counts["pairs"]
    assert counts["pairs"] - counts["scored"] == stored
    assert counts["tokens_unknown"] == stored and counts["truncated"] == 0
    assert {name: (data / name).read_bytes() for name in before} == before
    tokens = Database(str(folder / "db")).read("pair_scores", columns=["tokens"])["tokens"]
    assert (tokens.null_count, len(tokens)) == (stored, stored + counts["scored"])
