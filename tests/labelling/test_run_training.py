"""Mining and training files from a finished run; qrels and BEIR folders out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lancedb
import polars as pl
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from configs.labelling import Training
from configs.load import load_config
from flows.cli import app
from reranking.arrow import frame
from reranking.judgments.lists import grades
from reranking.labelling import answers as labelling
from reranking.labelling.answers import label_stored_run
from reranking.labelling.scored import ScoredRun
from reranking.runs.run import Run
from reranking.scoring.crossencoder import CrossEncoderModel
from reranking.store import Database
from tests.support.labelled import copied, scored

FORMATS = ["triplet", "n-tuple", "labeled-pair", "labeled-list"]
LOSSES = {
    "triplet": "MultipleNegativesRankingLoss",
    "n-tuple": "MultipleNegativesRankingLoss",
    "labeled-pair": "BinaryCrossEntropyLoss",
    "labeled-list": "LambdaLoss",
}


@pytest.fixture(autouse=True)
def no_model(labelled_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(CrossEncoderModel, "load", refuse)


@pytest.fixture
def run(labelled_run: Path) -> Run:
    config = load_config(labelled_run)
    return labelling.run_of(Database(config.database), config, None)


def ask(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def told(*arguments: object) -> dict[str, Any]:
    result = ask(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def consensus(config: Path, run: Run) -> pl.DataFrame:
    database = run.database
    return frame(grades(database, "j", ScoredRun(run).queries).table)


def test_negatives_are_the_best_candidates_that_nobody_calls_relevant(
    labelled_run: Path, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "negatives.parquet"
    report = told("mine", labelled_run, "--out", out, "--set", "training.num_negatives=2")
    mined = pl.read_parquet(out)
    known = consensus(labelled_run, run)
    positive = known.filter(pl.col("relevance") >= 2)
    pairs = scored(run).join(positive, on=["query_id", "doc_id"], how="anti")
    texts = positive.join(scored(run), on=["query_id", "doc_id"]).select("query_id", "doc_hash")
    pairs = pairs.join(texts, on=["query_id", "doc_hash"], how="anti")
    pairs = pairs.join(positive.select("query_id").unique(), on="query_id", how="semi")
    best = pairs.sort("query_id", "score", "doc_id", descending=[False, True, False])
    expected = best.group_by("query_id", maintain_order=True).head(2)
    keys = ["query_id", "doc_id"]
    assert mined.select(keys).sort(keys).equals(expected.select(keys).sort(keys))
    assert report["negatives"] == len(mined)
    assert mined["verified"].sum() == report["verified"] > 0
    assert 0 < report["false_negative_rate"] < 1  # calibrated by the judgments
    assert " of " in report["hidden_positives"]


def test_chunks_are_mined_as_one(labelled_run: Path, run: Run, tmp_path: Path) -> None:
    """The run has several chunks; mining all pairs at once selects the same."""
    from reranking.labelling.mining import Miner

    assert len(run.chunks) > 2
    whole = ScoredRun(run)
    held = consensus(labelled_run, run).with_columns(source=pl.lit("x"))
    at_once = Miner(Training(), held.to_arrow(), relevant=2).mine(whole.pairs())
    out = tmp_path / "negatives.parquet"
    told("mine", labelled_run, "--out", out, "--set", "training.duplicate_overlap=1.0")
    keys = ["query_id", "doc_id", "place"]
    alone = frame(at_once.negatives).select(keys).sort(keys)
    blocks = pl.read_parquet(out).select(keys).sort(keys)
    assert blocks.join(alone, on=keys, how="semi").height >= 0.95 * alone.height


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.filterwarnings("ignore")
def test_files_load_and_train(
    labelled_run: Path, tmp_path: Path, cross_encoder: Path, form: str
) -> None:
    """Two steps of the matching sentence-transformers loss on what `datasets` reads."""
    import torch
    from datasets import load_dataset
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder import losses
    from sentence_transformers.cross_encoder.data_collator import CrossEncoderDataCollator

    folder = tmp_path / "data"
    told("export-training", labelled_run, "--out", folder, "--format", form)
    data = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert set(data) == {"train", "validation"}  # so `datasets` calls dev
    model = CrossEncoder(str(cross_encoder), device="cpu")
    loss = getattr(losses, LOSSES[form])(model)
    collate = CrossEncoderDataCollator(preprocess_fn=model.preprocess)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for start in (0, 3):
        batch = collate([data["train"][n] for n in range(start, start + 3)])
        labels = batch.pop("label", None)
        value = loss(list(batch.values()), labels)
        assert torch.isfinite(value)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("files", ["parquet", "jsonl", "lance"])
def test_each_kind_of_file_holds_the_same_rows(
    labelled_run: Path, tmp_path: Path, files: str, run: Run
) -> None:
    folder = tmp_path / "data"
    report = told("export-training", labelled_run, "--out", folder, "--files", files)
    beside = pq.ParquetFile(folder / "__provenance__" / "train.parquet")
    marks = beside.schema_arrow.metadata
    assert marks[b"rescore.run_id"] == run.run_id.encode()
    assert json.loads(marks[b"rescore.mining"])["num_negatives"] == 3
    if files == "lance":
        rows = frame(lancedb.connect(str(folder)).open_table("train").search().to_arrow())
        assert sorted(p.name for p in folder.iterdir()) == [
            "__provenance__",
            "dev.lance",
            "train.lance",
        ]
    else:
        read = {"parquet": pl.read_parquet, "jsonl": pl.read_ndjson}[files]
        rows = read(folder / f"train.{files}")
    assert rows.columns == ["query", "positive", "negative"]
    assert len(rows) == report["rows"]["train"] == beside.metadata.num_rows
    provenance = pl.read_parquet(folder / "__provenance__" / "train.parquet")
    database = run.database
    texts = dict(frame(database.read("documents")).select("doc_id", "text").rows())
    asked = dict(frame(database.read("queries")).select("query_id", "text").rows())
    for row, origin in zip(rows.to_dicts(), provenance.to_dicts(), strict=True):
        assert row["query"] == asked[origin["query_id"]]
        assert [row["positive"], row["negative"]] == [texts[d] for d in origin["doc_ids"]]
    stored = json.loads((folder / "__provenance__" / "mining.json").read_text())
    assert stored["negatives"] == report["negatives"]


def test_splits_share_no_query_and_no_answer(labelled_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    shares = ["--set", "training.splits={train: 0.5, dev: 0.3, test: 0.2}"]
    report = told("export-training", labelled_run, "--out", folder, *shares)
    parts = {
        name: pl.read_parquet(folder / "__provenance__" / f"{name}.parquet")
        for name, count in report["rows"].items()
        if count
    }
    queries = [set(part["query_id"]) for part in parts.values()]
    answers = [set(part["doc_ids"].list.first()) for part in parts.values()]
    for sets in (queries, answers):
        assert sum(map(len, sets)) == len(set().union(*sets))


def test_a_folder_is_replaced_whole_and_strangers_are_left(
    labelled_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    told("export-training", labelled_run, "--out", folder)
    told("export-training", labelled_run, "--out", folder, "--files", "jsonl")
    assert not list(folder.glob("*.parquet"))
    refused = ask(
        "export-training", labelled_run, "--out", folder, "--set", "training.min_score=1e9"
    )
    assert refused.exit_code == 5 and "no example came out" in refused.stderr
    assert list(folder.glob("*.jsonl"))
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    result = ask("export-training", labelled_run, "--out", tmp_path / "mine")
    assert result.exit_code == 2 and "holds other files" in result.stderr


def test_labels_are_no_negatives_or_become_positives(labelled_run: Path, tmp_path: Path) -> None:
    copy = copied(labelled_run, tmp_path)
    label_stored_run(load_config(copy))
    plain = told("mine", copy)
    guarded = told("mine", copy, "--set", "training.label_set=answers")
    assert guarded["dropped"]["label"] > 0 and guarded["label_set"].startswith("answers@")
    assert guarded["false_negative_rate"] < plain["false_negative_rate"]
    more = ["training.label_set=answers", "training.positives=labels"]
    added = told("mine", copy, *(part for m in more for part in ("--set", m)))
    assert added["queries_without_positive"] <= plain["queries_without_positive"]
    assert added["dropped"]["positive"] > plain["dropped"]["positive"]


def test_scores_for_distillation(labelled_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    changes = ["--set", "training.output_scores=true", "--set", "training.num_negatives=2"]
    told("export-training", labelled_run, "--out", folder, "--format", "n-tuple", *changes)
    rows = pl.read_parquet(folder / "train.parquet")
    assert rows.columns == ["query", "positive", "negative_1", "negative_2", "scores"]
    beside = pl.read_parquet(folder / "__provenance__" / "train.parquet")
    assert rows["scores"].to_list() == beside["scores"].to_list()


def test_mining_on_probability_needs_a_calibration(labelled_run: Path) -> None:
    on = ["--set", "training.on=probability", "--set", "training.max_score=0.3"]
    report = told("mine", labelled_run, *on)
    assert report["false_negative_rate"] < 0.3
    refused = ask("mine", labelled_run, *on, "--set", "judgments=null")
    assert refused.exit_code == 5 and "needs a calibration" in refused.stderr


def test_qrels_keep_raters_and_the_unjudged(labelled_run: Path, run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "qrels"
    said = told("export-judgments", labelled_run, "--out", folder)
    lines = [line.split() for line in (folder / "qrels.txt").read_text().splitlines()]
    known = {(r["query_id"], r["doc_id"]): r["relevance"] for r in known_rows(labelled_run, run)}
    assert {(q, d): int(grade) for q, _, d, grade in lines} == known
    assert said["judged"] == len(lines)
    unjudged = (folder / "unjudged.tsv").read_text().splitlines()[1:]
    assert len(unjudged) == said["unjudged"] > 0
    assert not {tuple(line.split("\t")) for line in unjudged} & set(known)
    assert "gold" in (folder / "raters.tsv").read_text()


def known_rows(config: Path, run: Run) -> list[dict[str, Any]]:
    return consensus(config, run).to_dicts()


def test_a_beir_folder_comes_back_as_a_config(labelled_run: Path, run: Run, tmp_path: Path) -> None:
    from reranking.sources.open import read_documents, read_judgments, read_queries
    from tests.support.sources import source

    folder = tmp_path / "beir"
    told("export-judgments", labelled_run, "--out", folder, "--format", "beir")
    spec = source("beir", str(folder), "test", None, {})
    database = run.database
    stored = {r["doc_id"]: r["text"] for r in database.read("documents").to_pylist()}
    assert {r.values["doc_id"]: r.values["text"] for r in read_documents(spec)} == stored
    assert len(list(read_queries(spec))) == run.queries.count
    back = {
        (r.values["query_id"], r.values["doc_id"]): r.values["relevance"]
        for r in read_judgments(spec)
    }
    known = {(r["query_id"], r["doc_id"]): r["relevance"] for r in known_rows(labelled_run, run)}
    assert back == known


def test_labels_fill_in_where_nobody_judged(labelled_run: Path, run: Run, tmp_path: Path) -> None:
    copy = copied(labelled_run, tmp_path)
    label_stored_run(load_config(copy))
    folder = tmp_path / "qrels"
    said = told("export-judgments", copy, "--out", folder, "--labels", "answers")
    known = {(r["query_id"], r["doc_id"]): r["relevance"] for r in known_rows(labelled_run, run)}
    lines = [line.split() for line in (folder / "qrels.txt").read_text().splitlines()]
    written = {(q, d): int(grade) for q, _, d, grade in lines}
    assert known.items() <= written.items() and len(written) > len(known)
    assert said["unjudged"] == 0
    assert "\tlabel" in (folder / "raters.tsv").read_text()
