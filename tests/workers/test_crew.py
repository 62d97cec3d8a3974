"""Work is handed to whoever is there: two pieces each, and what a lost worker had goes to others"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from configs.execution import Execution
from configs.load import load_config
from configs.schema import Config
from reranking.errors import MissingPrerequisite, RuntimeFailure, StoreAway, ToBeContinued
from reranking.workers import crew as crews
from reranking.workers import presence
from reranking.workers.crew import WorkerLost, hand_out
from reranking.workers.local import processes
from reranking.workers.reach import need_answer
from tests.support import tiny


class Fake:
    """A worker that answers at once, or dies with its first piece of work."""

    def __init__(self, name: str, dies: bool = False) -> None:
        self.name, self.dies, self.dead = name, dies, False
        self.given: list[int] = []

    def submit(self, work: Callable[..., Any], /, *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        if work is answer:
            self.given.append(args[0])
            if self.dies:
                self.dead = True
                future.set_exception(WorkerLost(f"{self.name} was killed"))
                return future
        future.set_result(work(*args))
        return future


class Crew:
    """Those of the fakes that live."""

    least, waiting = 1, 0

    def __init__(self, *workers: Fake) -> None:
        self.workers = workers

    def present(self) -> dict[str, Fake]:
        return {w.name: w for w in self.workers if not w.dead}


def answer(item: int) -> int:
    return item * 10


def submit(worker: Any, item: int, again: bool) -> Future[Any]:
    future: Future[Any] = worker.submit(answer, item)
    return future


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crews, "_LOOK", 0.01)
    monkeypatch.setattr(crews, "_SOON", 0.05)


def test_all_items_are_done_and_nobody_holds_more_than_two() -> None:
    first, second = Fake("a"), Fake("b")
    told: list[tuple[int, int]] = []
    tally = hand_out(
        Crew(first, second), range(7), submit, tell=lambda t: told.append((t.done, t.workers))
    )
    assert tally.results == {i: i * 10 for i in range(7)} and not tally.lost
    assert sorted(first.given + second.given) == list(range(7))
    assert len(first.given) > 1 < len(second.given) and told[-1] == (7, 2)


def test_a_lost_worker_costs_its_work_and_only_what_it_was_at_is_blamed() -> None:
    dying, living = Fake("a", dies=True), Fake("b")
    tally = hand_out(Crew(dying, living), range(6), submit)
    assert set(tally.results) == set(range(6)) and tally.lost == 1
    assert tally.tried_again == {dying.given[0]} and not tally.deadly


def test_a_limit_ends_the_handing_out_and_what_is_at_hand_is_waited_for() -> None:
    tally = hand_out(
        Crew(Fake("a"), Fake("b")), range(20), submit, enough=lambda t: sum(t.results.values()) > 30
    )
    assert tally.ended and not tally.whole and 4 <= tally.done <= 8
    assert hand_out(Crew(Fake("a")), range(3), submit, enough=lambda t: True).done == 0


def test_a_worker_that_reaches_a_limit_ends_it_for_all_and_takes_nothing_with_it() -> None:
    class Tired(Fake):
        def submit(self, work: Callable[..., Any], /, *args: Any) -> Future[Any]:
            if work is answer and len(self.given) == 2:
                self.given.append(args[0])
                future: Future[Any] = Future()
                future.set_exception(ToBeContinued("enough"))
                return future
            return super().submit(work, *args)

    tired, other = Tired("a"), Fake("b")
    tally = hand_out(Crew(tired, other), range(40), submit)
    assert tally.ended and not tally.whole and not tally.lost and not tally.deadly
    left = set(range(40)) - set(tally.results)
    assert tired.given[2] in left and set(other.given) <= set(tally.results)


def test_what_takes_three_workers_is_named_and_the_rest_is_done() -> None:
    class Cursed(Fake):
        def submit(self, work: Callable[..., Any], /, *args: Any) -> Future[Any]:
            self.dies = args == (2,)
            return super().submit(work, *args)

    tally = hand_out(Crew(*(Cursed(str(i)) for i in range(5))), range(5), submit)
    assert list(tally.deadly) == [2] and set(tally.results) == {0, 1, 3, 4} and tally.lost == 3


def test_a_worker_that_cannot_is_refused_by_name_and_the_others_go_on() -> None:
    weak, strong = Fake("weak"), Fake("strong")

    def admit(worker: Any) -> Future[str | None]:
        future: Future[str | None] = Future()
        future.set_result("its GPU has no bfloat16" if worker is weak else None)
        return future

    tally = hand_out(Crew(weak, strong), range(3), submit, admit=admit)
    assert not weak.given and len(tally.results) == 3
    assert tally.refused == {"weak": "its GPU has no bfloat16"}
    with pytest.raises(MissingPrerequisite, match="no worker can do this job. weak: its GPU has"):
        hand_out(Crew(weak), range(3), submit, admit=admit)


def test_a_worker_of_another_version_is_told_by_what_it_lacks() -> None:
    def admit(worker: Any) -> Future[str | None]:
        future: Future[str | None] = Future()
        future.set_exception(ModuleNotFoundError("No module named 'reranking.workers.presence'"))
        return future

    with pytest.raises(MissingPrerequisite, match="another version of rescore.*presence"):
        hand_out(Crew(Fake("old")), range(3), submit, admit=admit)


def test_a_cluster_without_workers_is_no_silent_wait() -> None:
    with pytest.raises(MissingPrerequisite, match=r"no worker is there.*\{min: 0, max: N\}"):
        hand_out(Crew(), range(3), submit)


def test_a_worker_that_joins_later_is_given_work() -> None:
    late = Fake("late")
    late.dead = True
    crew = Crew(late)
    crew.least = 0
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(hand_out, crew, range(3), submit)
        late.dead = False
        assert len(done.result().results) == 3


def test_faults_of_the_job_are_no_faults_of_a_worker() -> None:
    def broken(worker: Any, item: int, again: bool) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_exception(RuntimeFailure("the model gave NaN"))
        return future

    with pytest.raises(RuntimeFailure, match="NaN"):
        hand_out(Crew(Fake("a")), range(3), broken)


def die_once(marks: str, item: int) -> int:
    mark = Path(marks) / "died"
    if item == 0 and not mark.exists():
        mark.touch()
        os._exit(9)
    return item


@pytest.mark.slow
def test_a_process_that_dies_in_its_first_piece_of_work_is_replaced(
    tmp_path: Path, cross_encoder: Path
) -> None:
    config = job(tmp_path, cross_encoder, "execution.runner=processes", "execution.workers=2")
    with processes(config) as crew:
        tally = hand_out(
            crew, range(4), lambda worker, item, _: worker.submit(die_once, str(tmp_path), item)
        )
    assert set(tally.results) == set(range(4)) and tally.lost == 1


def job(folder: Path, model: Path, *overrides: str) -> Config:
    tiny.write_jsonl(folder / "documents.jsonl", tiny.documents(3))
    tiny.write_jsonl(folder / "queries.jsonl", tiny.queries(["river"]))
    return load_config(tiny.write_config(folder, model), overrides)


def test_a_worker_says_why_it_is_of_no_use(
    tmp_path: Path, cross_encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reranking.scoring.crossencoder import find_cross_encoder

    config = job(tmp_path, cross_encoder, "rerank.precision=float16")
    model = find_cross_encoder(config.rerank).fingerprint.hex()  # type: ignore[arg-type]
    asked = presence.what_is_asked(config, auto=True, reranker=model)
    assert "does not see the database" in (presence.fault_of_worker(asked) or "")
    (tmp_path / "db.lancedb").mkdir()
    assert "scores in float16 on GPUs and it has none" in (presence.fault_of_worker(asked) or "")
    own = presence.what_is_asked(config, reranker=model)  # a precision that the user chose
    assert presence.fault_of_worker(own) is None
    other = presence.what_is_asked(config, reranker="00" * 16)
    assert "another one here" in (presence.fault_of_worker(other) or "")
    empty = presence.what_is_asked(config, table="runs")
    assert "sees another database" in (presence.fault_of_worker(empty) or "")
    monkeypatch.setattr(presence, "_python", lambda: "3.99")
    assert "it has Python 3.99" in (presence.fault_of_worker(own) or "")


def test_a_device_that_is_named_needs_no_gpu_on_the_driver(cross_encoder: Path) -> None:
    from reranking.models.files import read_model_files
    from reranking.scoring.scorer import resolve_dtype

    assert resolve_dtype("auto", "cuda", read_model_files(cross_encoder)) == "float16"


def test_nobody_at_the_address_is_said_in_seconds() -> None:
    with pytest.raises(MissingPrerequisite, match="nobody listens.*dask scheduler"):
        need_answer("tcp://127.0.0.1:9", "Dask", "dask scheduler")
    need_answer("auto", "Ray", "ray start --head")


def test_an_address_is_honoured_whatever_the_number_of_workers() -> None:
    assert Execution().alone and Execution(runner="ray").alone
    assert not Execution(runner="dask", address="tcp://h:1").alone
    assert not Execution(runner="dask", address="tcp://h:1", workers=1).alone
    scaled = Execution.model_validate({"workers": {"min": 0, "max": 4}})
    assert (scaled.least, scaled.most) == (0, 4)
    with pytest.raises(ValueError, match="min 5 is more than max 4"):
        Execution.model_validate({"workers": {"min": 5, "max": 4}})
    with pytest.raises(ValueError, match="workers is 0, expected 1 or more"):
        Execution(workers=0)


def test_a_store_that_is_away_is_waited_for_and_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(crews, "_PAUSE", 0.02)
    answers = iter([StoreAway("table 'x' cannot be opened")] * 3)

    def away(worker: Any, item: int, again: bool) -> Future[Any]:
        future: Future[Any] = Future()
        error = next(answers, None)
        future.set_result(again) if error is None else future.set_exception(error)
        return future

    tally = hand_out(Crew(Fake("a")), range(2), away)
    assert tally.whole and not tally.lost and any(tally.results.values())
    assert "cannot be opened: waiting for it since 0 s (0 of 2 done)" in caplog.text
    monkeypatch.setattr(crews, "_PATIENCE", 0.0)
    answers = iter([StoreAway("table 'x' cannot be opened")] * 9)
    with pytest.raises(StoreAway, match="cannot be opened"):
        hand_out(Crew(Fake("a")), range(2), away)
