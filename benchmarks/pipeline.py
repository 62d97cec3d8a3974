"""The two sides: the main job on a fresh database, and LanceDB's own loop on the same table."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import polars as pl
from lancedb.rerankers import CrossEncoderReranker

from benchmarks.texts import Texts, vectors
from configs.schema import Config
from reranking import chunks
from reranking.arrow import frame
from reranking.pipeline import Pipeline
from reranking.progress import unwatched
from reranking.runs.candidates import candidates_of
from reranking.scoring.crossencoder import CrossEncoderModel
from reranking.scoring.engines import Pairs
from reranking.scoring.scorer import Batch, Scorer
from reranking.steps import Here
from reranking.store import Database

ALL = ("vector", "fts", "hybrid")


@dataclass
class Took:
    """Seconds on the clock and on the processors."""

    wall: float = 0.0
    cpu: float = 0.0

    def __enter__(self) -> Took:
        self._from = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall += time.perf_counter() - self._from[0]
        self.cpu += time.process_time() - self._from[1]

    def __add__(self, other: Took) -> Took:
        return Took(self.wall + other.wall, self.cpu + other.cpu)

    def over(self, other: Took) -> tuple[float, float]:
        """Ratio of both times: how often the other fits in."""
        return self.wall / other.wall, self.cpu / other.cpu


class TimedScorer:
    """A scorer that stays loaded and adds up its time.

    `took` runs from the first batch to the last, with what the caller does between batches: the
    workers go on meanwhile. `waited` is only the time in which the caller waited for a batch.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer, self.took, self.waited = scorer, Took(), Took()
        self.dtype, self.path, self.max_length = scorer.dtype, scorer.path, scorer.max_length

    def batches(self, *pairs: Any) -> Iterator[Batch]:
        with self.took:
            batches = iter(self.scorer.batches(*pairs))
            while True:
                with self.waited:
                    batch = next(batches, None)
                if batch is None:
                    return
                yield batch

    def score(self, *pairs: Any) -> np.ndarray:
        return self.scorer.score(*pairs)


_loaded: dict[tuple[str, str], TimedScorer] = {}
_load = CrossEncoderModel.load


def _kept(model: CrossEncoderModel) -> TimedScorer:
    key = (str(model.folder.path), model.dtype)
    if key not in _loaded:
        _loaded[key] = TimedScorer(_load(model))
    return _loaded[key]


def keep_models_loaded() -> None:
    """From now on a model is loaded once a process: its loading is start-up, as LanceDB's is."""
    CrossEncoderModel.load = _kept  # type: ignore[assignment, method-assign]


@dataclass
class Done:
    """What a run of ours took and gave."""

    took: Took
    model: Took
    pairs: int
    scores: dict[tuple[str, str, str], float]  # (query type, query, document) -> relevance
    seconds: dict[str, float] = field(default_factory=dict)


class Side:
    """A text's database, made once, and everything that is run on it."""

    def __init__(self, texts: Texts, model: Path, folder: Path, device: str, limit: int) -> None:
        self.texts, self.model, self.folder = texts, model, folder / texts.name
        self.device, self.limit = device, limit
        self.folder.mkdir()
        self.documents = {f"d{i:05d}": t for i, t in enumerate(texts.documents)}
        rows = zip(self.documents.items(), vectors(texts.documents).tolist(), strict=True)
        source = self.folder / "documents.jsonl"
        _write(source, ({"doc_id": i, "text": t, "vector": v} for (i, t), v in rows))
        Pipeline(self.config("made", ["x"])).ingest()

    def config(self, database: str, queries: Sequence[str], **rerank: Any) -> Config:
        """The job on these queries in that database."""
        asked = self.folder / "queries.jsonl"
        given = zip(queries, vectors(list(queries)).tolist(), strict=True)
        _write(
            asked,
            ({"query_id": f"q{i}", "text": t, "vector": v} for i, (t, v) in enumerate(given)),
        )
        types = rerank.pop("query_types", ["hybrid"])
        chunk = rerank.pop("chunk_queries", 1000)
        return Config.model_validate(
            {
                "database": str(self.folder / database),
                "documents": {
                    "source": {"format": "jsonl", "path": str(self.folder / "documents.jsonl")}
                },
                "queries": {
                    "query_set": "asked",
                    "source": {"format": "jsonl", "path": str(asked)},
                },
                "search": {"query_types": types, "limit": self.limit, "chunk_queries": chunk},
                "rerank": {"model_name": str(self.model), "device": self.device, **rerank},
            }
        )

    def run(self, queries: Sequence[str], name: str = "run", **rerank: Any) -> Done:
        """The job without Prefect's start-up, on a copy of the database in which nothing is known.

        Model aside (it is loaded before the clock starts) all of it counts: query set, plan,
        searches, joins, scores, commits, publishing.
        """
        config = self.config(name, queries, **rerank)
        path = Path(config.database)
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(self.folder / "made", path)
        scorer = timed_scorer(config)
        seconds: dict[str, float] = {}
        with Took() as took:
            pipeline = Pipeline(config, Here(unwatched))
            timed(seconds, "check", pipeline.check)
            timed(seconds, "queries", pipeline.load_queries)
            run = timed(seconds, "plan", pipeline.plan)
            counts = {"pairs": 0, "scored": 0, "path": scorer.path}
            for chunk in run.chunks:
                timed(seconds, "search", lambda c=chunk: chunks.search_chunk(pipeline, run, c))
                said = timed(seconds, "score", lambda c=chunk: chunks.score_chunk(pipeline, run, c))
                counts["pairs"] += said["pairs"]
                counts["scored"] += said["scored"]
            timed(seconds, "publish", lambda: chunks.publish(pipeline, run, counts, {}))
        seconds["look-ups and commits"] = seconds.pop("score", 0.0) - scorer.took.wall
        database = Database(config.database)
        rows = frame(database.read(run.results_table))
        self.candidates = pl.concat(frame(candidates_of(run, c)) for c in run.chunks)
        keys = zip(rows["query_type"], rows["query_id"], rows["doc_id"], strict=True)
        scores = dict(zip(keys, rows["_relevance_score"], strict=True))
        return Done(took, scorer.took, counts["pairs"], scores, seconds)

    def pairs(self, queries: Sequence[str]) -> Pairs:
        """The distinct pairs of the last run, by query."""
        rows = self.candidates.unique(["query_hash", "doc_hash"]).sort("query_id", "doc_id")
        ids = rows["doc_id"].unique(maintain_order=True).to_list()
        places = {name: i for i, name in enumerate(ids)}
        return Pairs(
            queries,
            [self.documents[i] for i in ids],
            np.array([int(q[1:]) for q in rows["query_id"]], np.int64),
            np.array([places[d] for d in rows["doc_id"]], np.int64),
        )


def timed_scorer(config: Config) -> TimedScorer:
    """The config's model, loaded, with its clock at zero."""
    model = Pipeline(config).reranker
    assert model is not None
    scorer = _kept(model)
    scorer.took, scorer.waited = Took(), Took()
    return scorer


def timed(seconds: dict[str, float], stage: str, call: Callable[[], Any]) -> Any:
    """What the call gives; its seconds are added to the stage."""
    began = time.perf_counter()
    given = call()
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - began
    return given


class Theirs:
    """LanceDB's CrossEncoderReranker, query by query; the time inside the model apart."""

    def __init__(self, model: Path, device: str) -> None:
        self.reranker = CrossEncoderReranker(
            str(model), device=device, trust_remote_code=False, local_files_only=True
        )
        self.model = self.reranker.model
        self.predict = self.model.predict
        self.inside = Took()
        self.model.predict = self._timed

    def _timed(self, pairs: Any, **options: Any) -> Any:
        with self.inside:
            return self.predict(pairs, show_progress_bar=False, **options)

    def loop(
        self, side: Side, queries: Sequence[str], query_type: str
    ) -> tuple[Took, dict[tuple[str, str, str], float]]:
        """The time of all queries, and the scores as in `Done`; the table is open already."""
        table = lancedb.connect(side.folder / "made").open_table("documents")
        self.inside = Took()
        asked = vectors(list(queries))
        scores: dict[tuple[str, str, str], float] = {}
        with Took() as took:
            for i, (text, vector) in enumerate(zip(queries, asked, strict=True)):
                found = self._ask(table, text, vector, query_type, side.limit)
                ids, values = found["doc_id"].to_pylist(), found["_relevance_score"].to_pylist()
                for name, value in zip(ids, values, strict=True):
                    scores[query_type, f"q{i}", name] = value
        return took, scores

    def _ask(self, table: Any, text: str, vector: np.ndarray, query_type: str, limit: int) -> Any:
        if query_type == "vector":
            query = table.search(vector).distance_type("cosine").limit(limit)
            return query.rerank(self.reranker, query_string=text).to_arrow()
        if query_type == "fts":
            query = table.search(text, query_type="fts").limit(limit)
            return query.rerank(self.reranker).to_arrow()
        query = table.search(query_type="hybrid").vector(vector).text(text)
        return query.distance_type("cosine").limit(limit).rerank(self.reranker).to_arrow()


def _write(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
