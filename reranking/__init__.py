"""rescore as a library: the same work as the command line's, without Prefect and without YAML.

A name is imported when it is first used, so that `import reranking` costs next to nothing.
`docs/python.md` walks through it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from reranking.memory import keep_together

keep_together()  # first of all: a heap that a thread of some library's has is there to stay

if TYPE_CHECKING:
    from reranking.errors import (
        ConfigError,
        GateFailed,
        InputError,
        MissingPrerequisite,
        MissingResource,
        RescoreError,
        RuntimeFailure,
    )
    from reranking.evaluation.comparison import Comparison, compare
    from reranking.evaluation.measures import evaluate
    from reranking.pipeline import Pipeline
    from reranking.reranker import CrossEncoderReranker
    from reranking.runs.run import Run
    from reranking.store import Database

__all__ = [
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
]

_HOMES = {
    "Comparison": "evaluation.comparison",
    "CrossEncoderReranker": "reranker",
    "Database": "store",
    "Pipeline": "pipeline",
    "Run": "runs.run",
    "compare": "evaluation.comparison",
    "evaluate": "evaluation.measures",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its home; raises AttributeError for any other."""
    if name not in __all__:
        raise AttributeError(f"module 'reranking' has no attribute {name!r}")
    return getattr(import_module(f"reranking.{_HOMES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return __all__
