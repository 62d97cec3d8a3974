"""The actors of a Ray cluster that is not there: who waits, is met, or ends before it begins."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from reranking.errors import MissingPrerequisite
from reranking.workers.on_ray import _RayCrew


class RayError(Exception):
    pass


class Cluster:
    """Stands for the module `ray`; `fates` are what its actors answer, None if they have no place.

    An actor beyond these waits for a place, too.
    """

    exceptions = SimpleNamespace(RayError=RayError, RayActorError=RayError)

    def __init__(self, *fates: str | RayError | None) -> None:
        self.fates, self.made = [*fates], list[Any]()
        self.killed: list[Any] = []

    def remote(self, kind: type) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._actor))

    def _actor(self) -> Any:
        number = len(self.made)
        self.made.append(SimpleNamespace(call=SimpleNamespace(remote=lambda *_: number)))
        return self.made[-1]

    def wait(self, answers: list[int], timeout: float) -> tuple[list[int], list[int]]:
        ready = [n for n in answers if n < len(self.fates) and self.fates[n] is not None]
        return ready, [n for n in answers if n not in ready]

    def get(self, answer: int) -> Any:
        fate = self.fates[answer]
        if isinstance(fate, RayError):
            raise fate
        return fate

    def kill(self, actor: Any) -> None:
        self.killed.append(actor)


@pytest.fixture
def crew_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[Cluster, int], _RayCrew]:
    def made(cluster: Cluster, count: int) -> _RayCrew:
        monkeypatch.setitem(sys.modules, "ray", cluster)  # type: ignore[arg-type]
        return _RayCrew(count, 1, {})

    return made


def test_who_has_no_place_waits_and_is_ended_with_the_others(crew_of: Any) -> None:
    cluster = Cluster("a", None)
    crew = crew_of(cluster, 2)
    assert list(crew.present()) == ["ray-0 on a"] and crew.waiting == 1
    cluster.fates[1] = "b"
    assert list(crew.present()) == ["ray-0 on a", "ray-1 on b"] and not crew.waiting
    crew.close()
    assert cluster.killed == cluster.made


def test_a_dead_one_is_replaced(crew_of: Any) -> None:
    crew = crew_of(Cluster("a", "b"), 1)
    [worker] = crew.present().values()
    worker._seen(RayError("its node is gone"))
    assert list(crew.present()) == ["ray-1 on b"]


def test_one_that_cannot_begin_is_named_and_tried_again(
    crew_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    crew = crew_of(Cluster(RayError("first\nit ran out of memory"), RayError("again"), "c"), 1)
    assert not crew.present() and not crew.present()
    assert "worker ray-0 could not begin: it ran out of memory" in caplog.text
    assert list(crew.present()) == ["ray-2 on c"]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            "RayTaskError\nModuleNotFoundError: No module named 'reranking'",
            "the Ray cluster has another version of rescore, or none: ModuleNotFoundError: No "
            "module named 'reranking'. Every node needs",
        ),
        ("killed by the system", "the Ray cluster ends its workers at once: killed by the system"),
    ],
)
def test_three_in_a_row_end_the_job(crew_of: Any, said: str, why: str) -> None:
    crew = crew_of(Cluster(*[RayError(said)] * 3), 1)
    assert not crew.present() and not crew.present()
    with pytest.raises(MissingPrerequisite, match=why):
        crew.present()


def test_one_that_begins_says_that_the_cluster_can(crew_of: Any) -> None:
    dying = RayError("preempted")
    crew = crew_of(Cluster(dying, dying, "c", dying, dying, "f"), 1)
    for name in ("ray-2 on c", "ray-5 on f"):
        assert not crew.present() and not crew.present()
        assert list(crew.present()) == [name]
        [worker] = crew.present().values()
        worker.dead = True
