"""What the library offers: the names, where they live, what importing it costs."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import reranking


def test_the_public_names_are_these() -> None:
    assert reranking.__all__ == sorted(
        {
            "Comparison",
            "ConfigError",
            "CrossEncoderReranker",
            "Database",
            "GateFailed",
            "InputError",
            "MissingPrerequisite",
            "MissingResource",
            "Pipeline",
            "RescoreError",
            "Run",
            "RuntimeFailure",
            "compare",
            "evaluate",
        }
    )
    assert dir(reranking) == reranking.__all__


@pytest.mark.parametrize("name", reranking.__all__)
def test_a_name_is_that_of_its_home(name: str) -> None:
    value = getattr(reranking, name)
    assert value.__name__ == name
    assert getattr(import_module(value.__module__), name) is value
    assert value.__doc__


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Plan'"):
        reranking.Plan  # noqa: B018 - the access is what is tested


def test_importing_the_library_imports_nothing_else() -> None:
    code = (
        "import sys; before = set(sys.modules); import reranking\n"
        "new = {n.partition('.')[0] for n in set(sys.modules) - before}\n"
        "assert not new - set(sys.stdlib_module_names) - {'reranking'}, new"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
