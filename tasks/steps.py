"""A run's steps as tasks of a flow run: one retry policy and one cache policy for all of them.

Whether work is done is read from the tables, so nothing is cached and no result is kept; a step is
tried again by the same rule as without Prefect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.states import Completed

from reranking.errors import ToBeContinued
from reranking.progress import Progress, Status, watch
from reranking.retry import is_transient
from reranking.steps import Pending, step_of
from tasks.progress import Watcher

WAITING = "ToBeContinued"  # the state of work that a limit of the config ended
P = ParamSpec("P")
R = TypeVar("R")


class AsTasks:
    """Carries out each step as a task that the UI shows."""

    def call(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what the step returns; tried again as the step says."""
        ended: list[ToBeContinued] = []

        def carried_out(*args: P.args, **kwargs: P.kwargs) -> Any:
            try:
                return work(*args, **kwargs)
            except ToBeContinued as stopped:  # no failure: the flow is told, and ends in order
                ended.append(stopped)
                return Completed(name=WAITING, message=str(stopped))

        carried_out.__step__ = step_of(work)  # type: ignore[attr-defined]
        answer = _task_of(carried_out, args, kwargs)()
        if ended:
            raise ended[0]
        return answer

    def submit(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Pending[R]:
        """Begin the step in the flow's task runner."""
        return _task_of(work, args, kwargs).submit()

    @contextmanager
    def watch(self, unit: str) -> Iterator[Progress]:
        """Show what `reranking.progress.watch` shows, and a progress artifact."""
        with watch(unit) as shown, Watcher(unit) as artifact:

            def both(status: Status) -> None:
                shown(status)
                artifact(status)

            yield both


def _task_of(work: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Task[Any]:
    """The call as a task without parameters: a run or a config is not copied to the server."""
    marked = step_of(work)
    chunk = next((a for a in args if isinstance(a, int) and not isinstance(a, bool)), None)
    run_name = marked.name if chunk is None else f"{marked.name}-{chunk}"

    def call() -> Any:
        return work(*args, **kwargs)

    return task(
        call,
        name=marked.name,
        task_run_name=run_name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=len(marked.delays),
        retry_delay_seconds=list(marked.delays) or None,
        retry_condition_fn=may_pass,
    )


def may_pass(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Return whether the same call may succeed later: a bad input stays what it is."""
    return isinstance(state.data, Exception) and is_transient(state.data)
