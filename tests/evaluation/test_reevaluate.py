"""Another reranker on stored candidates, another encoder in a table of its own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from configs.evaluation import ComparisonSettings
from configs.load import load_config
from reranking import order
from reranking.arrow import frame
from reranking.corpus.corpus import texts_of
from reranking.corpus.stored import ENCODER_KEY, READY
from reranking.corpus.vector_columns import vector_columns
from reranking.corpus.vector_tables import encode_beside
from reranking.errors import ConfigError, GateFailed, InputError, MissingResource
from reranking.evaluation.comparison import compare
from reranking.evaluation.run_comparison import compare_sides
from reranking.evaluation.sides import find_side
from reranking.pipeline import Pipeline
from reranking.progress import unwatched
from reranking.runs.candidates import candidates_of
from reranking.runs.listing import find_run, list_rows
from reranking.runs.plan import tag_of
from reranking.runs.promotion import promote
from reranking.runs.run import Run
from reranking.schemas import VECTORS
from reranking.scoring.crossencoder import CrossEncoderModel
from reranking.scoring.encoder import SentenceEncoder
from reranking.steps import Here
from reranking.store import Database
from reranking.upkeep.columns import extra_columns, superseded_tables
from reranking.upkeep.maintain import maintain
from tests.support import judged, tiny
from tests.support.judged import refuse
from tests.support.walk import walk_file

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
        return self.job("reevaluate", *overrides)

    def job(self, name: str, *overrides: str) -> dict[str, Any]:
        return order.JOBS[name](Pipeline(load_config(self.config, overrides), Here(unwatched)))

    def change_document(self, number: int, text: str) -> None:
        path = self.folder / "documents.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows[number]["text"] = text
        tiny.write_jsonl(path, rows)

    def version(self) -> int:
        return int(self.database.need("documents").version)

    def search_as_consumers_do(self) -> None:
        """A plain search of the newest version: LanceDB must find the one vector column itself."""
        table = lancedb.connect(self.folder / "db.lancedb").open_table("documents")
        columns = [f for f in table.schema if pa.types.is_fixed_size_list(f.type)]
        assert len(columns) == 1
        assert len(table.search([0.1] * columns[0].type.list_size).limit(3).to_list()) == 3

    def watch_consumers(self) -> None:
        """From now on search as consumers do after every commit to the documents table."""
        self.raised: list[str] = []
        self.searches = 0
        retry = Database.need

        def need(database: Database, name: str, version: int | None = None) -> Any:
            if name == "documents" and version is None:
                self.searches += 1
                try:
                    self.search_as_consumers_do()
                except Exception as error:
                    self.raised.append(str(error))
            return retry(database, name, version)

        self.database.need = need.__get__(self.database)  # type: ignore[method-assign]

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


def test_a_new_encoder_gets_a_table_and_promoting_moves_it(
    site: Site, encoders: list[Path]
) -> None:
    other = f"documents.encoder.model={encoders[1]}"
    before = site.version()
    with pytest.raises(ConfigError, match="names \\['lang'\\]"):
        site.again(other, 'search.where={"lang": "en"}')
    filtered = site.again(other, 'search.where={"text": {"gt": "b"}}', "rerank=null")
    assert filtered["encoded"] == len(site.ready())
    fingerprint = SentenceEncoder(load_settings(encoders[1])).fingerprint
    beside = f"documents_vectors_{fingerprint[:8]}"
    assert set(site.database.need(beside).schema.names) == {*VECTORS.names, "vector", "text"}
    texts = dict(zip(site.ready()["doc_id"], site.ready()["text"], strict=True))
    hits = frame(site.database.read(filtered["results_table"]))
    assert hits["query_type"].n_unique() == 3 and all(texts[i] > "b" for i in hits["doc_id"])
    found = site.again(other)
    assert site.version() == before  # a trial only reads it
    site.search_as_consumers_do()
    documents = site.ready()
    assert found["encoded"] == 0 and vector_columns(site.database, "documents").keys() == {"vector"}
    stored = frame(site.database.read(beside)).sort("doc_id")
    expected = SentenceEncoder(load_settings(encoders[1])).encode_documents(
        documents["text"].to_list()
    )
    assert np.allclose(stored["vector"].to_numpy(), expected)

    run = find_run(site.database, found["run_id"])
    assert run.corpus.vectors_table == beside
    tag = tag_of(run.run_id)  # both versions are pinned
    assert site.database.tagged(beside, tag) == run.corpus.vectors_version
    assert site.database.tagged("documents", tag) == run.corpus.version
    old, new = (frame(candidates_of(r, 0)) for r in (site.run, run))
    words = ["query_id", "doc_id", "fts_rank", "_score"]
    assert same_rows(
        old.drop_nulls("fts_rank").select(words), new.drop_nulls("fts_rank").select(words)
    )
    assert not same_rows(old.drop_nulls("vector_rank")[:, :], new.drop_nulls("vector_rank"))
    assert "encoder" in found["comparison"]["comparisons"][0]["differing"]

    with pytest.raises(InputError, match="come from encoder"):  # until somebody decides
        walk_file(site.config, other)
    assert walk_file(site.config, ingest=False)[0].run_id == site.run.run_id  # the old one goes on

    promote(site.database, found["run_id"], "a-name")  # not the one that the config compares with
    assert site.version() == before
    site.watch_consumers()
    moved = promote(site.database, found["run_id"], "production").moved
    assert site.raised == [] and site.searches > 3  # consumers searched at every commit
    assert moved is not None and moved.now == fingerprint
    assert site.ready().select(documents.columns).drop("vector").equals(documents.drop("vector"))
    assert np.allclose(site.ready()["vector"].to_numpy(), expected)
    assert np.allclose(
        frame(site.database.read(moved.kept)).sort("doc_id")["vector"].to_numpy(),
        documents["vector"].to_numpy(),
    )
    assert walk_file(site.config, other)[0].run_id == found["run_id"]
    with pytest.raises(InputError, match="come from encoder"):
        walk_file(site.config)
    assert promote(site.database, found["run_id"], "production").moved is None
    assert len(frame(candidates_of(site.run, 0))) and texts_of(  # the old run stays readable
        site.database, site.run.corpus, ["d001"]
    )
    site.change_document(3, "river lamp")
    walk_file(site.config, other)

    with pytest.raises(InputError, match="1 documents .* have no vector"):  # the way back
        promote(site.database, site.run.run_id, "production")
    again = site.again()
    assert again["encoded"] == 1
    promote(site.database, again["run_id"], "production")
    assert walk_file(site.config)[0].run_id == again["run_id"]
    assert vector_columns(site.database, "documents").keys() == {"vector"}


def test_a_killed_move_is_finished_by_the_next(
    site: Site, encoders: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = f"documents.encoder.model={encoders[1]}"
    found = site.again(other)
    before = site.ready()
    with monkeypatch.context() as patch:
        patch.setattr("reranking.corpus.vector_moves._swap", refuse)
        with pytest.raises(AssertionError):
            promote(site.database, found["run_id"], "production")
    site.search_as_consumers_do()
    assert site.ready().equals(before)
    with monkeypatch.context() as patch:
        patch.setattr("reranking.corpus.vector_moves.create_fts", refuse)
        with pytest.raises(AssertionError):
            promote(site.database, found["run_id"], "production")
    site.search_as_consumers_do()
    assert site.ready().equals(before)  # readers of ours wait for the whole move
    assert promote(site.database, found["run_id"], "production").moved is None
    assert set(site.ready().columns) == set(before.columns)
    assert walk_file(site.config, other)[0].run_id == found["run_id"]


@pytest.mark.slow
def test_maintain_moves_the_columns_of_earlier_trials(site: Site, encoders: list[Path]) -> None:
    """In earlier versions a trial put a second vector column into `documents`."""
    other = f"documents.encoder.model={encoders[1]}"
    fingerprint = SentenceEncoder(load_settings(encoders[1])).fingerprint
    found = site.again(other)
    beside, name = f"documents_vectors_{fingerprint[:8]}", f"vector_{fingerprint[:8]}"
    rows = frame(site.database.read(beside)).select("doc_id", pl.col("vector").alias(name))
    mark = {ENCODER_KEY: fingerprint.encode()}
    width = rows.schema[name].shape[0]
    field = pa.field(name, pa.list_(pa.float32(), width), metadata=mark)
    site.database.add_columns("documents", [field])
    schema = pa.schema([VECTORS.field("doc_id"), field])
    site.database.merge("documents", rows.to_arrow().cast(schema), schema, insert=False)
    site.database.tag("documents", READY, site.version())
    site.database.drop(beside)
    assert walk_file(site.config)[0].run_id == site.run.run_id
    with pytest.raises(InputError, match="rescore maintain"):
        site.again(other)
    assert extra_columns(site.database, "documents") == [name]
    assert maintain(site.database).columns == [f"documents.{name}"]
    site.search_as_consumers_do()
    assert vector_columns(site.database, "documents").keys() == {"vector"}
    assert site.again(other)["encoded"] == 0
    assert site.again(other)["run_id"] == found["run_id"]
    assert walk_file(site.config)[0].run_id == site.run.run_id


def load_settings(folder: Path) -> Any:
    from configs.documents import Encoder as Settings

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
    monkeypatch.setattr("reranking.corpus.vector_tables._STEP", 10)
    documents = load_config(site.config).documents
    before, options = site.version(), {"commit_seconds": 0.0}
    with pytest.raises(KeyboardInterrupt):
        encode_beside(site.database, documents, Encoder(fails_at=35), **options)
    name = f"documents_vectors_{'f' * 8}"
    assert site.database.tagged(name, READY) is None
    rest = Encoder()
    done = encode_beside(site.database, documents, rest, **options)
    assert done.encoded == rest.seen == 80 - 30
    assert site.database.tagged(name, READY) == done.version
    assert site.database.need(name).count_rows() == 80
    assert encode_beside(site.database, documents, Encoder(0), **options).encoded == 0
    assert site.version() == before

    assert superseded_tables(site.database, "documents", timedelta(days=1)) == []  # just written
    assert superseded_tables(site.database, "documents", timedelta()) == [name]  # no run uses it


def test_while_a_gate_fails_consumers_keep_what_they_have(site: Site) -> None:
    publish = 'results={"publish": "for_the_shop"}'
    gates = json.dumps([{"metric": "nDCG@10", "threshold": 0.99}])
    with pytest.raises(GateFailed, match="must be at least 0.99") as failed:
        site.job("rescore", publish, f"gates={gates}")
    assert failed.value.values["run_id"] == site.run.run_id  # finished and there to look at
    assert site.database.open("for_the_shop") is None
    assert failed.value.values["consumers"] is None
    assert site.job("rescore", publish)["gates"] is None
    assert site.database.need("for_the_shop").count_rows() > 0
