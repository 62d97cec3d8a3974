"""Every family of rerankers: a run and the drop-in give LanceDB's own class's results.

All families rerank the same candidates of one table. `pytest -s` prints the gaps that were seen.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import torch

from reranking.arrow import frame
from reranking.reranker import CrossEncoderReranker
from reranking.runs.run import Run
from tests.support import tiny
from tests.support.families import FAMILIES, Family
from tests.support.oracle import CELLS, COLUMNS, Oracle, compare
from tests.support.walk import walk_file

CLOSE = 1e-5  # most that a score may differ from LanceDB's, of logits per unit that they spread
LIMIT = 8
RESCORE = [str(Path(sys.executable).with_name("rescore"))]
TEXTS = ["river stone", "naïve 東京 <pad> river", "signal copper " * 30]
# One of each path and each way to say what scores; the other families are slow tests.
QUICK = {
    "roberta",
    "modernbert",
    "Dense chain of three",
    "LogitScore chain, prompt",
    "language model",
    "label by name",
    "LoRA of BERT",
}
LIMIT = 8
RESCORE = [str(Path(sys.executable).with_name("rescore"))]
TEXTS = ["river stone", "naïve 東京 <pad> river", "signal copper " * 30]
QUICK = {"modernbert", "label by name", "LogitScore chain, prompt", "LoRA of BERT"}


class Gaps(NamedTuple):
    """The largest differences from LanceDB's scores, and how far its scores lie apart."""

    run: float
    drop_in: float
    spread: float


class Site:
    """One table with its queries, which every family reranks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        long = {"doc_id": "long", "title": "", "text": "river winter signal " * 40}
        odd = {"doc_id": "odd", "title": "", "text": "Straße, 東京 naïve 4.5% lamp <pad> copper"}
        rng = np.random.default_rng(3)
        rows = tiny.documents(30) + [row | {"vector": tiny.vector(rng)} for row in (long, odd)]
        tiny.write_jsonl(folder / "documents.jsonl", rows)
        self.queries = tiny.queries(TEXTS)
        tiny.write_jsonl(folder / "queries.jsonl", self.queries)
        self.config = tiny.write_config(folder, Path("set below"), search__limit=LIMIT)
        self.vectors = {q["query_id"]: np.array(q["vector"], np.float32) for q in self.queries}
        self.ingested = False
        self.loose: dict[str, dict[str, set[str]]] = {}
        self.gaps: dict[str, Gaps] = {}

    def model(self, name: str) -> tuple[Family, Path]:
        """The family and its folder, made when it is asked for."""
        family = FAMILIES[name]
        folder = self.folder / name.replace(" ", "_") / "model"
        return family, folder if folder.exists() else family.build(folder)

    def overrides(self, name: str, return_score: str) -> list[str]:
        """What the config says of the family's model."""
        family, folder = self.model(name)
        keys = {"model_name": str(folder), "return_score": return_score, "device": "cpu"}
        return [f"rerank.{k}={json.dumps(v)}" for k, v in (keys | dict(family.settings)).items()]

    def run(self, name: str, return_score: str) -> Run:
        """The batch run, which publishes with the model's own activation."""
        run, _ = walk_file(
            self.config, *self.overrides(name, return_score), ingest=not self.ingested
        )
        self.ingested = True
        return run

    def free(self, oracle: Oracle, query: dict[str, Any], query_type: str) -> set[str]:
        """Documents that LanceDB may leave out of a leg, because they tie at its end."""
        if query["query_id"] not in self.loose:
            self.loose[query["query_id"]] = oracle.loose(query["query_id"], query["text"])
        legs = ("vector", "fts") if query_type == "hybrid" else (query_type,)
        return set().union(*(self.loose[query["query_id"]][leg] for leg in legs))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("families"))
    yield made
    for name, gaps in made.gaps.items():
        line = f"{name:32} run {gaps.run:.0e}  drop-in {gaps.drop_in:.0e}  of {gaps.spread:.2f}"
        sys.stdout.write(line + "\n")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two layers of 32 numbers are not worth sharing."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def lancedb_of(site: Site, name: str, run: Run) -> Oracle:
    """LanceDB's class with the family's model.

    Two things cannot be told to it: which of several labels ranks, so what its model predicts is
    narrowed here, and the padding token that a decoder's config leaves to the tokenizer.
    """
    family, folder = site.model(name)
    oracle = Oracle(run, str(family.stock_folder(folder)), site.vectors, **family.stock)
    model = oracle.model
    if model.config.pad_token_id is None:
        model.config.pad_token_id = model.tokenizer.pad_token_id
    if family.column is not None:
        oracle.column = family.column
    return oracle


def drop_ins(site: Site, name: str) -> dict[str, CrossEncoderReranker]:
    """The drop-in for each return_score, which share a scorer and what it gave."""
    family, folder = site.model(name)
    made = {
        s: CrossEncoderReranker(str(folder), device="cpu", return_score=s, **family.settings)
        for s in ("all", "relevance")
    }
    score = made["all"]._score
    known: dict[tuple[str, str], Any] = {}

    def remembered(query: str, texts: list[str]) -> np.ndarray:
        new = [text for text in texts if (query, text) not in known]
        if new:
            known.update(zip(((query, text) for text in new), score(query, new), strict=True))
        return np.array([known[query, text] for text in texts], np.float32)

    for reranker in made.values():
        reranker._score = remembered  # type: ignore[method-assign]
    return made


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in FAMILIES]
)
def test_a_run_and_the_drop_in_give_what_lancedb_gives(site: Site, name: str) -> None:
    runs = {s: site.run(name, s) for s in ("all", "relevance")}
    oracle = lancedb_of(site, name, runs["all"])
    results = {s: frame(run.database.read(run.results_table)) for s, run in runs.items()}
    own = drop_ins(site, name)
    seen: dict[str, list[float]] = {"run": [], "drop-in": [], "scores": []}
    for query_type, return_score in CELLS:
        rows = results[return_score].filter(query_type=query_type).sort("rank")
        for query in site.queries:
            asked = (query["query_id"], query["text"], query_type, return_score)
            theirs = oracle.answer(*asked)
            online = oracle.answer(*asked, reranker=own[return_score])
            mine = rows.filter(query_id=query["query_id"])
            free = site.free(oracle, query, query_type)
            assert set(online.columns) == set(theirs.columns)
            assert return_score != "all" or set(COLUMNS[query_type]) <= set(mine.columns)
            seen["run"].append(compare(mine, theirs, query_type, free, LIMIT))
            seen["drop-in"].append(compare(online, theirs, query_type, free, LIMIT))
            seen["scores"] += theirs["_relevance_score"].to_list()
    gaps = Gaps(max(seen["run"]), max(seen["drop-in"]), float(np.ptp(seen["scores"])))
    site.gaps[name] = gaps
    assert gaps.spread > 0.05  # equal scores would prove nothing
    assert max(gaps.run, gaps.drop_in) <= CLOSE * max(1, gaps.spread)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["language model", "label by name", "LoRA of BERT"])
def test_the_installed_command_gives_what_lancedb_gives(tmp_path: Path, name: str) -> None:
    site = Site(tmp_path)
    sets = [part for o in site.overrides(name, "all") for part in ("--set", o)]
    done = subprocess.run(
        [*RESCORE, "run", str(site.config), *sets, "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    run_id = json.loads(done.stdout.splitlines()[-1])["run_id"]
    out = tmp_path / "results.parquet"
    subprocess.run(
        [*RESCORE, "export", run_id, "--config", str(site.config), "--format", "parquet"]
        + ["--out", str(out)],
        check=True,
        capture_output=True,
    )
    results = pl.read_parquet(out)
    site.ingested = True
    run = site.run(name, "all")
    assert run.run_id == run_id
    oracle = lancedb_of(site, name, run)
    for query_type in COLUMNS:
        for query in site.queries:
            theirs = oracle.answer(query["query_id"], query["text"], query_type, "all")
            mine = results.filter(query_type=query_type, query_id=query["query_id"]).sort("rank")
            free = site.free(oracle, query, query_type)
            compare(mine, theirs, query_type, free, LIMIT)  # asserts that they are within 1e-4
