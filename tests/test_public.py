"""What the library offers: the names, where they live, what importing it costs."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import reranking
from examples.changed_model import write_inputs
from reranking.notebook import html_table
from tests.conftest import REPOSITORY


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


def test_the_walk_through_python_runs(tmp_path: Path, cross_encoder: Path) -> None:
    """The blocks of docs/python.md, one after the other, on a small config."""
    text = (REPOSITORY / "docs" / "python.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) >= 4
    config = write_inputs(tmp_path) | {"rerank": {"model_name": str(cross_encoder)}}
    (tmp_path / "nightly.yaml").write_text(json.dumps(config))
    names: dict[str, Any] = {}
    with contextlib.chdir(tmp_path):
        for block in blocks:
            exec(compile(block, "docs/python.md", "exec"), names)  # noqa: S102 - our own page
    run, comparison = names["run"], names["comparison"]
    assert names["again"].run_id == names["newest"].run_id
    assert names["means"].column_names[:2] == ["query_type", "measure"]
    assert comparison.verdict == "cannot tell"
    assert f"<caption>Run {run.run_id[:8]}</caption>" in run._repr_html_()
    assert "cannot tell" in comparison._repr_html_()


def test_what_a_notebook_shows_is_escaped() -> None:
    assert "<b>" not in html_table("<b>", ["<b>"], [["<b>", 1.5, None, 3]])
