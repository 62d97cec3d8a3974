"""Whether there is a GPU: told without torch only if the answer is certain."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from reranking.scoring import scorer
from reranking.scoring.scorer import surely_no_gpu


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    surely_no_gpu.cache_clear()
    yield
    surely_no_gpu.cache_clear()


def machine(
    patch: pytest.MonkeyPatch,
    build: str,
    platform: str = "linux",
    node: str = "",
    library: str = "",
) -> None:
    """Pretend a machine: its torch build, a device node, a driver's library."""
    patch.setattr(scorer, "version", lambda name: build)
    patch.setattr(sys, "platform", platform)
    patch.setattr(scorer, "find_library", lambda name: library or None)
    patch.setattr(Path, "glob", lambda self, pattern: iter([Path(node)] if node == pattern else []))


@pytest.mark.parametrize(
    ("facts", "sure"),
    [
        ({"build": "2.13.0+cpu"}, True),
        ({"build": "2.13.0+cpu", "node": "nvidia*", "library": "libcuda.so.1"}, True),
        ({"build": "2.13.0"}, True),
        ({"build": "2.13.0+cu128"}, True),
        ({"build": "2.13.0", "node": "nvidia*"}, False),
        ({"build": "2.13.0", "node": "dxg"}, False),
        ({"build": "2.13.0+rocm6.4", "node": "kfd"}, False),
        ({"build": "2.13.0", "library": "libcuda.so.1"}, False),
        ({"build": "2.13.0", "platform": "win32"}, False),
        ({"build": "2.13.0", "platform": "darwin"}, True),
    ],
)
def test_only_a_certain_answer_is_given(
    monkeypatch: pytest.MonkeyPatch, facts: dict[str, str], sure: bool
) -> None:
    machine(monkeypatch, **facts)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", lambda self: False)
        assert surely_no_gpu() is sure
