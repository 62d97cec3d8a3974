"""Which faults Prefect should try again after."""

from __future__ import annotations

from typing import Any

from prefect import Task
from prefect.client.schemas.objects import State, TaskRun

from reranking.retry import is_transient


def may_pass(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether the same call may succeed later: a bad input or a full disk stays what it is."""
    return isinstance(state.data, Exception) and is_transient(state.data)
