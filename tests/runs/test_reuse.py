"""A pair is paid for once: what is scored again, and what never is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from configs.load import load_config
from flows.cli import app
from reranking.arrow import frame
from reranking.errors import RuntimeFailure
from reranking.evaluation.run_measures import stored_means
from reranking.fingerprints import text_hash
from reranking.runs.candidates import candidates_of
from reranking.runs.listing import find_run
from reranking.runs.rows import stored_row, write_row
from reranking.runs.run import Run
from reranking.scoring.crossencoder import CrossEncoderModel
from reranking.store import Database
from tests.support import tiny
from tests.support.equal import assert_same
from tests.support.judged import FakeScorer
from tests.support.walk import database_of, walk, walk_file

Pair = tuple[str, str]


class Scores(FakeScorer):
    """Makes the logit of a pair from its texts; fails after `fails_after` pairs."""

    def __init__(self) -> None:
        super().__init__(lambda *pair: self.sign * logit(*pair) + self.shift, [])
        self.loads = 0
        self.fails_after: int | None = None
        self.shift, self.sign = 0.0, 1

    def batches(
        self, queries: Sequence[str], documents: Sequence[str], q: Any, d: Any
    ) -> Iterator[tuple[Any, Any]]:
        for start in range(0, len(q), 7):
            at = np.arange(start, min(start + 7, len(q)))
            if self.fails_after is not None and len(self.pairs) + len(at) > self.fails_after:
                raise RuntimeFailure("not one pair more")
            yield at, super().score(queries, documents, q[at], d[at])

    def score(self, queries: Sequence[str], documents: Sequence[str], q: Any, d: Any) -> Any:
        counted = len(self.pairs)
        logits = super().score(queries, documents, q, d)
        del self.pairs[counted:]  # the check of stored pairs is not counted
        return logits


def logit(query: str, document: str) -> float:
    """A number in [-8, 8) that depends on both texts only."""
    return int.from_bytes(text_hash(f"{query}\n{document}")[:4], "big") / 2**28 - 8


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> Scores:
    found = Scores()

    def load(model: CrossEncoderModel) -> Scores:
        found.loads += 1
        return found

    monkeypatch.setattr(CrossEncoderModel, "load", load)
    return found


class World:
    """A folder with documents, queries and a config, and runs over them."""

    def __init__(self, folder: Path, model: Path, scores: Scores) -> None:
        self.folder, self.model, self.scores = folder, model, scores
        rng = np.random.default_rng(4)
        self.documents = tiny.documents(120)
        self.queries = tiny.queries([tiny.sentence(rng, 2, 6) for _ in range(9)])

    def run(self, force: bool = False, **changes: Any) -> tuple[Run, list[Pair]]:
        """Run the job as a new process would; its plan and the pairs that were scored."""
        tiny.write_jsonl(self.folder / "documents.jsonl", self.documents)
        tiny.write_jsonl(self.folder / "queries.jsonl", self.queries)
        changes = {"search__chunk_queries": 4, **changes}
        config = load_config(tiny.write_config(self.folder, self.model, **changes))
        self.scores.pairs.clear()
        plan, _ = walk(config, force=force)
        return plan, list(self.scores.pairs)

    @property
    def database(self) -> Database:
        return Database(str(self.folder / "db.lancedb"))

    def pairs(self, plan: Run) -> set[Pair]:
        """The distinct pairs of texts among the run's candidates."""
        texts, asked = self.texts()
        found = set()
        for chunk in plan.chunks:
            rows = candidates_of(plan, chunk)
            ids = zip(rows["query_id"].to_pylist(), rows["doc_id"].to_pylist(), strict=True)
            found |= {(asked[q], texts[d]) for q, d in ids}
        return found

    def texts(self) -> tuple[dict[str, str], dict[str, str]]:
        """The present texts of documents and queries, by id."""
        documents = {d["doc_id"]: d["text"] for d in self.documents}
        return documents, {q["query_id"]: q["text"] for q in self.queries}

    def results(self, plan: Run) -> pl.DataFrame:
        """The published results, in order."""
        rows = frame(self.database.need(plan.results_table).to_arrow())
        return rows.sort("query_type", "query_id", "rank")

    def right(self, plan: Run, shift: float = 0.0) -> bool:
        """Whether every result carries the score that its texts have."""
        texts, asked = self.texts()
        rows = self.results(plan)
        wanted = [
            logit(asked[q], texts[d]) + shift
            for q, d in zip(rows["query_id"], rows["doc_id"], strict=True)
        ]
        return bool(np.allclose(rows["_relevance_score"], wanted, atol=1e-5))


@pytest.fixture
def world(tmp_path: Path, cross_encoder: Path, scores: Scores) -> World:
    return World(tmp_path, cross_encoder, scores)


EVERY_DOCUMENT = 200  # a limit that makes every document a candidate of every query


def test_unchanged_inputs_score_nothing(world: World) -> None:
    plan, scored = world.run()
    assert sorted(scored) == sorted(world.pairs(plan)) and world.right(plan)
    world.scores.fails_after = 0
    again, scored = world.run()
    assert (again.run_id, again.finished, scored) == (plan.run_id, True, [])
    world.database.drop(plan.results_table)  # published again from what is stored
    again, scored = world.run()
    assert not again.finished and not scored and world.right(again)
    assert world.scores.loads == 1  # nor is the model loaded


def test_an_index_that_the_run_itself_built_is_the_same_index_later(world: World) -> None:
    first, asked = world.run(documents__vector_index={"type": "IVF_FLAT"})
    again, nothing = world.run(documents__vector_index={"type": "IVF_FLAT"})
    assert asked and not nothing
    assert (again.run_id, again.finished) == (first.run_id, True)


def test_after_an_edit_only_pairs_with_changed_texts_are_scored(world: World) -> None:
    first, _ = world.run(search__limit=EVERY_DOCUMENT)
    changed = world.documents[17]  # one of 120: about 1 %
    changed["text"] += " velvet"
    second, scored = world.run(search__limit=EVERY_DOCUMENT)
    assert second.run_id != first.run_id and world.right(second)
    assert sorted(scored) == sorted((q["text"], changed["text"]) for q in world.queries)


@pytest.mark.slow
def test_an_edit_that_moves_other_documents_scores_just_the_new_pairs(world: World) -> None:
    first, _ = world.run()
    known = world.pairs(first)
    world.documents[3]["text"] = world.queries[0]["text"]
    second, scored = world.run()
    assert sorted(scored) == sorted(world.pairs(second) - known) and world.right(second)


def test_a_deeper_limit_scores_the_new_pairs_only(world: World) -> None:
    first, scored = world.run(search__limit=50)
    deeper, more = world.run(search__limit=100)
    assert more and not set(more) & set(scored)
    assert sorted(more) == sorted(world.pairs(deeper) - world.pairs(first))
    world.scores.fails_after = 0
    shallow, none = world.run(search__limit=30)
    assert not none and world.right(shallow) and world.right(deeper)


def test_query_types_query_sets_and_tables_share_scores(world: World) -> None:
    whole, _ = world.run(search__limit=EVERY_DOCUMENT)
    world.scores.fails_after = 0
    for types in (["vector"], ["fts"], ["hybrid", "vector"]):
        plan, _ = world.run(search__limit=EVERY_DOCUMENT, search__query_types=types)
        assert world.right(plan) and plan.run_id != whole.run_id
    world.queries = [{**q, "query_id": f"other-{i}"} for i, q in enumerate(world.queries[::-1])]
    plan, _ = world.run(search__limit=EVERY_DOCUMENT, queries__query_set="other")
    assert world.right(plan) and plan.run_id != whole.run_id
    world.documents = [{**d, "doc_id": f"x{d['doc_id']}"} for d in world.documents]
    plan, _ = world.run(search__limit=EVERY_DOCUMENT, documents__table="elsewhere")
    assert world.right(plan) and plan.corpus.table == "elsewhere"


def test_what_changes_no_score_changes_no_key(world: World) -> None:
    first, _ = world.run()
    world.scores.fails_after = 0
    same: dict[str, Any] = {"device": "cpu", "batch_tokens": 128, "precision": "float32"}
    plan, _ = world.run(**{f"rerank__{k}": v for k, v in same.items()})
    assert plan.run_id == first.run_id
    plan, _ = world.run(execution__commit_seconds=1.0, documents__window_rows=7)
    assert plan.run_id == first.run_id
    squashed, _ = world.run(rerank__activation="sigmoid")
    assert squashed.run_id != first.run_id
    scores = world.results(squashed)["_relevance_score"].to_numpy()
    logits = world.results(first)["_relevance_score"].to_numpy()
    assert np.allclose(np.sort(scores), np.sort(1 / (1 + np.exp(-logits))), atol=1e-6)
    for change in ({"rerank__return_score": "relevance"}, {"rerank__top_k": 3}):
        plan, _ = world.run(**change)
        assert plan.run_id != first.run_id and world.right(plan)


def test_what_changes_scores_changes_the_key(world: World) -> None:
    first, scored = world.run()
    shorter, again = world.run(rerank__max_length=20)
    assert shorter.reranker != first.reranker and sorted(again) == sorted(scored)


def test_a_model_folder_edited_in_place_is_a_new_model(
    world: World, tmp_path: Path, cross_encoder: Path
) -> None:
    world.model = Path(shutil.copytree(cross_encoder, tmp_path / "model"))
    first, scored = world.run()
    weights = world.model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1  # one bit of one weight; size and path stay
    weights.write_bytes(data)
    second, again = world.run()
    assert second.reranker != first.reranker and sorted(again) == sorted(scored)


def test_a_model_edited_while_the_run_is_at_work_is_refused(
    world: World, tmp_path: Path, cross_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.model = Path(shutil.copytree(cross_encoder, tmp_path / "model"))

    def edited_meanwhile(model: CrossEncoderModel) -> Scores:
        path = world.model / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"layer_norm_eps": 0.5}))
        return world.scores

    monkeypatch.setattr(CrossEncoderModel, "load", edited_meanwhile)
    with pytest.raises(RuntimeFailure, match="was changed while the run was at work"):
        world.run()
    assert not world.scores.pairs
    world.run()  # now it is the changed model's run
    assert world.scores.pairs


def test_force_writes_an_epoch_that_readers_prefer(world: World) -> None:
    first, scored = world.run()
    world.scores.shift = 0.5  # a library changed its numbers
    forced, again = world.run(force=True)
    assert forced.run_id == first.run_id and forced.epoch > first.epoch
    assert sorted(again) == sorted(scored) and world.right(forced, shift=0.5)
    world.scores.fails_after = 0
    plan, _ = world.run()
    assert plan.finished and world.right(plan, shift=0.5)
    other, _ = world.run(search__query_types=["vector"])  # another run reads the new scores
    assert world.right(other, shift=0.5)


@pytest.mark.slow
def test_an_interrupted_forced_run_continues(world: World) -> None:
    first, scored = world.run()
    world.scores.shift, world.scores.fails_after = 0.5, len(scored) // 2
    with pytest.raises(RuntimeFailure, match="not one pair more"):
        world.run(force=True, execution__commit_seconds=1e-9)
    assert world.right(first)  # the old results stay until the new ones are whole
    begun = set(world.scores.pairs)
    assert begun
    told = find_run(world.database, first.run_id).stored
    assert (told["status"], told["forced"]) == ("done", "failed") and told["failure"]
    row = stored_row(world.database, first.run_id)
    assert row is not None
    write_row(world.database, row | {"status": "running", "failure": None})  # as a kill leaves it
    shown = CliRunner().invoke(app, ["runs", "--database", world.database.uri]).output
    assert "done, again: running" in shown
    assert f"{first.run_id[:8]} has results; scoring it again (run --force) is running" in shown
    world.scores.fails_after = None
    forced, rest = world.run(force=True)
    assert world.right(forced, shift=0.5) and forced.epoch == 1
    assert not set(rest) & begun and set(rest) | begun == set(scored)
    assert find_run(world.database, first.run_id).stored["forced"] is None
    third, everything = world.run(force=True)  # a finished one is not continued but done anew
    assert third.epoch == 2 and sorted(everything) == sorted(scored)


def test_what_was_scored_before_a_fault_is_kept(world: World) -> None:
    world.scores.fails_after = 40
    with pytest.raises(RuntimeFailure, match="not one pair more"):
        world.run(execution__commit_seconds=1000)
    begun = list(world.scores.pairs)
    assert world.database.need("pair_scores").count_rows() == len(begun) > 0
    world.scores.fails_after = None
    plan, rest = world.run()
    assert sorted(begun + rest) == sorted(world.pairs(plan)) and world.right(plan)


@pytest.mark.slow
def test_measures_are_those_of_the_forced_results(world: World, tmp_path: Path) -> None:
    (tmp_path / "judgments.tsv").write_text("q000 0 d001 2\nq001 0 d003 1\n")
    judgments = {
        "judgment_list": "j",
        "source": {"format": "trec", "path": "judgments.tsv"},
        "measures": ["RR"],
    }
    plan, _ = world.run(judgments=judgments, search__limit=EVERY_DOCUMENT)
    before = stored_means(find_run(world.database, plan.run_id))
    world.scores.sign = -1
    world.run(force=True, judgments=judgments, search__limit=EVERY_DOCUMENT)
    after = stored_means(find_run(world.database, plan.run_id))
    assert [row["first"] for row in after] == [row["first"] for row in before]
    assert [row["reranked"] for row in after] != [row["reranked"] for row in before]


@pytest.mark.slow
def test_the_real_model_gives_the_same_results_twice(tmp_path: Path, cross_encoder: Path) -> None:
    folders = [tmp_path / "whole", tmp_path / "grown"]
    for folder in folders:
        folder.mkdir()
        tiny.write_jsonl(folder / "documents.jsonl", tiny.documents(60))
    asked = tiny.queries([tiny.sentence(np.random.default_rng(8), 2, 6) for _ in range(8)])
    tiny.write_jsonl(folders[1] / "queries.jsonl", asked[:3])
    walk_file(tiny.write_config(folders[1], cross_encoder))  # other pairs, other batches
    for folder in folders:
        tiny.write_jsonl(folder / "queries.jsonl", asked)
    runs = [
        walk_file(tiny.write_config(f, cross_encoder, rerank__batch_tokens=300)) for f in folders
    ]
    one, other = (frame(database_of(r).read(r.results_table)) for r, _ in runs)
    key = ["query_type", "query_id", "doc_id"]
    assert_same("results", one.sort(key), other.sort(key))
    assert [r.run_id for r, _ in runs] == [runs[0][0].run_id] * 2
