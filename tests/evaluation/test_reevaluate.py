"""Another reranker on stored candidates, another encoder in a column of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from configs.evaluation import ComparisonSettings
from configs.load import load_config
from configs.schema import Documents
from flows.reevaluate import reevaluate
from flows.rescore import rescore
from reranking.arrow import frame
from reranking.corpus.ingest import READY
from reranking.corpus.vector_columns import (
    add_vectors,
    encoder_column,
    vector_columns,
)
from reranking.errors import GateFailed, InputError, MissingResource
from reranking.evaluation.comparison import compare
from reranking.evaluation.run_comparison import compare_sides
from reranking.evaluation.sides import find_side
from reranking.runs.candidates import candidates_of
from reranking.runs.promotion import promote
from reranking.runs.run import Run, find_run, list_rows
from reranking.scoring.crossencoder import CrossEncoderModel
from reranking.scoring.encoder import SentenceEncoder
from reranking.store import Database
from reranking.upkeep.columns import drop_superseded, superseded_columns
from tests.support import judged, tiny
from tests.support.judged import refuse
from tests.support.walk import walk_file

pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]
OTHER = "rerank.max_length=40"  # another fingerprint of the same tiny model


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("encoders")
    return [judged.encoder_folder(folder / f"encoder{seed}", seed) for seed in (1, 2)]


class Site:
    """A database with one run, promoted as production."""

    def __init__(self, folder: Path, run: Run) -> None:
        self.folder, self.run = folder, run
        self.config = folder / "config.yaml"
        self.database = Database(str(folder / "db.lancedb"))

    def again(self, *overrides: str) -> dict[str, Any]:
        return reevaluate(load_config(self.config, overrides))

    def change_document(self, number: int, text: str) -> None:
        path = self.folder / "documents.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows[number]["text"] = text
        tiny.write_jsonl(path, rows)

    def ready(self) -> pl.DataFrame:
        version = self.database.tagged("documents", READY)
        return frame(self.database.read("documents", version=version)).sort("doc_id")


@pytest.fixture(scope="module")
def original(
    tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path, encoders: list[Path]
) -> tuple[Path, Run]:
    folder = tmp_path_factory.mktemp("original")
    run = walk_file(judged.encoded_collection(folder, cross_encoder, encoders[0]))[0]
    promote(run.database, run.run_id, "production")
    return folder, run


@pytest.fixture
def site(tmp_path: Path, original: tuple[Path, Run]) -> Site:
    folder, run = original
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return Site(tmp_path, run)


def test_another_reranker_searches_and_encodes_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranking = judged.first_stage(site.run)
    changed = next(iter(ranking.values()))[0]
    judged.judge(site.folder, ranking)
    site.change_document(int(changed[1:]), "river stone, changed after the promotion")
    fresh = walk_file(site.config)[0]
    drifted = compare_sides(
        find_side(site.database, site.run.run_id),
        [find_side(site.database, fresh.run_id)],
        "j",
        ComparisonSettings(),
    )
    assert any(notice.drift for notice in drifted.comparisons[0].notices)
    monkeypatch.setattr(SentenceEncoder, "_encode", refuse)
    monkeypatch.setattr("reranking.runs.candidates.search_chunk", refuse)
    scorer = judged.use_scorer(monkeypatch, judged.shuffled)
    found = site.again(OTHER)
    assert found["computed"] and found["scored"] == found["pairs"] == len(scorer.pairs)
    compared = found["comparison"]["comparisons"][0]
    assert found["comparison"]["base"]["run_id"] == site.run.run_id
    assert list(compared["differing"]) == ["reranker"]  # on the promoted run's own inputs
    assert compared["notices"] == []  # the changed document is judged: on today's it would drift
    monkeypatch.setattr(CrossEncoderModel, "load", refuse)
    assert not site.again(OTHER)["computed"]
    fewer = site.again(OTHER, "rerank.top_k=3")  # a new run, every pair known
    assert fewer["computed"] and (fewer["scored"], fewer["reused"]) == (0, found["pairs"])


def test_gates_are_applied_against_the_promoted_run(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged.use_scorer(monkeypatch, judged.shuffled)
    gates = json.dumps([{"metric": "nDCG@10", "threshold": 0.99}])
    with pytest.raises(GateFailed, match="must be at least 0.99") as failed:
        site.again(OTHER, f"gates={gates}")
    assert failed.value.values["comparison"]["base"]["name"].startswith("production")
    assert site.again(OTHER)["gates"] is None


def test_gates_report_and_verdict_share_one_comparison(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged.use_scorer(monkeypatch, judged.shuffled)
    calls: list[str] = []

    def counted(base: Any, *arguments: Any, **options: Any) -> Any:
        calls.append(base.name)
        return compare(base, *arguments, **options)

    monkeypatch.setattr("reranking.evaluation.run_comparison.compare", counted)
    gates = json.dumps([{"metric": "nDCG@10", "threshold": 0.0}])
    reports = json.dumps({"report": str(site.folder / "reports")})
    values = site.again(OTHER, f"gates={gates}", f"results={reports}")
    name = f"production ({site.run.run_id[:8]})"
    assert calls == [name]
    assert values["gates"]["against"] == values["comparison"]["base"]["name"] == name
    assert values["gates"]["sentence"] == values["comparison"]["comparisons"][0]["sentence"]
    page = (site.folder / "reports" / f"{values['run_id']}.html").read_text("utf-8")
    assert name in page


def test_another_search_is_refused_and_leaves_no_run(site: Site) -> None:
    before = [r["run_id"] for r in list_rows(site.database)]
    with pytest.raises(MissingResource, match="no stored candidates"):
        site.again("search.limit=5")
    with pytest.raises(MissingResource, match="no stored candidates"):  # with no baseline, too
        site.again("search.limit=5", "comparison.against=nobody")
    assert [r["run_id"] for r in list_rows(site.database)] == before


def test_a_changed_encoder_of_the_same_width_is_refused(site: Site, encoders: list[Path]) -> None:
    other = f"documents.encoder.model={encoders[1]}"
    for ingest in (True, False):
        with pytest.raises(InputError, match="rescore reevaluate"):
            walk_file(site.config, other, ingest=ingest)


def test_a_new_encoder_gets_a_column_and_promoting_switches(
    site: Site, encoders: list[Path]
) -> None:
    other = f"documents.encoder.model={encoders[1]}"
    before = site.ready()
    found = site.again(other)
    fingerprint = SentenceEncoder(load_settings(encoders[1])).fingerprint
    column = f"vector_{fingerprint[:8]}"
    after = site.ready()
    assert found["encoded"] == len(before)
    assert after.drop(column).equals(before)
    expected = SentenceEncoder(load_settings(encoders[1])).encode_documents(after["text"].to_list())
    assert np.allclose(after[column].to_numpy(), expected)
    assert vector_columns(site.database, "documents")[column] == fingerprint

    run = find_run(site.database, found["run_id"])
    assert run.corpus.vector == column
    old, new = (frame(candidates_of(r, 0)) for r in (site.run, run))
    words = ["query_id", "doc_id", "fts_rank", "_score"]
    assert same_rows(
        old.drop_nulls("fts_rank").select(words), new.drop_nulls("fts_rank").select(words)
    )
    assert not same_rows(old.drop_nulls("vector_rank")[:, :], new.drop_nulls("vector_rank"))
    assert "vector" in found["comparison"]["comparisons"][0]["differing"]

    with pytest.raises(InputError, match="not in use"):  # until somebody decides
        walk_file(site.config, other)
    assert walk_file(site.config, ingest=False)[0].run_id == site.run.run_id  # the old one goes on

    promote(site.database, found["run_id"], "production")
    assert walk_file(site.config, other)[0].run_id == found["run_id"]
    with pytest.raises(InputError, match="not in use"):
        walk_file(site.config)
    site.change_document(3, "river lamp")
    assert walk_file(site.config, other)[0].corpus.vector == column
    assert site.ready()["vector"].null_count() == 1  # the old encoder never saw the new text

    promote(site.database, site.run.run_id, "production")  # back again
    with pytest.raises(InputError, match="1 documents .* have no vector"):
        walk_file(site.config, ingest=False)
    assert site.again()["encoded"] == 1
    assert walk_file(site.config)[0].corpus.vector == "vector"


def load_settings(folder: Path) -> Any:
    from configs.schema import Encoder as Settings

    return Settings(model=str(folder))


def same_rows(left: pl.DataFrame, right: pl.DataFrame) -> bool:
    columns = [c for c in left.columns if c not in ("search_id", "attempt")]
    return left.select(columns).sort(columns[:2]).equals(right.select(columns).sort(columns[:2]))


class Encoder:
    """Vectors of ones; `fails_at` texts it gives up."""

    fingerprint = "f" * 32
    dimension = 4

    def __init__(self, fails_at: int | None = None) -> None:
        self.fails_at, self.seen = fails_at, 0

    def encode_documents(self, texts: Sequence[str]) -> Any:
        if self.fails_at is not None and self.seen + len(texts) > self.fails_at:
            raise KeyboardInterrupt
        self.seen += len(texts)
        return np.ones((len(texts), self.dimension), np.float32)


def test_a_killed_encoding_goes_on_and_ready_waits(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reranking.corpus.vector_columns._STEP", 10)
    ready = site.database.tagged("documents", READY)
    options: dict[str, Any] = {"commit_seconds": 0.0}
    with pytest.raises(KeyboardInterrupt):
        add_vectors(
            site.database, load_config(site.config).documents, Encoder(fails_at=35), **options
        )
    assert site.database.tagged("documents", READY) == ready
    rest = Encoder()
    done = add_vectors(site.database, wanted(site), rest, **options)
    assert done.encoded == rest.seen == 80 - 30
    assert site.database.tagged("documents", READY) == done.version
    assert site.ready()[done.column].null_count() == 0
    assert (
        add_vectors(
            site.database, load_config(site.config).documents, Encoder(0), **options
        ).encoded
        == 0
    )

    assert superseded_columns(site.database, "documents") == [done.column]  # no run searched it
    assert drop_superseded(site.database, "documents") == [done.column]
    assert encoder_column(site.database, "documents", Encoder.fingerprint) is None
    assert walk_file(site.config)[0].run_id == site.run.run_id


def wanted(site: Site) -> Documents:
    return load_config(site.config).documents


def test_an_unfinished_ingest_is_not_made_ready(site: Site) -> None:
    table = site.database.need("documents")
    table.update(where="doc_id = 'd001'", values={"text_hash": b"0" * 16})
    options: dict[str, Any] = {"commit_seconds": 9.0}
    with pytest.raises(InputError, match="did not finish"):
        add_vectors(site.database, wanted(site), Encoder(), **options)


def test_while_a_gate_fails_consumers_keep_what_they_have(site: Site) -> None:
    publish = 'results={"publish": "for_the_shop"}'
    gates = json.dumps([{"metric": "nDCG@10", "threshold": 0.99}])
    with pytest.raises(GateFailed, match="must be at least 0.99") as failed:
        rescore(load_config(site.config, [publish, f"gates={gates}"]))
    assert failed.value.values["run_id"] == site.run.run_id  # finished and there to look at
    assert site.database.open("for_the_shop") is None
    assert failed.value.values["published"] is None
    assert rescore(load_config(site.config, [publish]))["gates"] is None
    assert site.database.need("for_the_shop").count_rows() > 0
