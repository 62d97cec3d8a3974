"""A run's chunks of queries, worked on one after the other or by many workers at once.

A worker opens the tables itself, loads its model once, and commits its own chunks. Nobody holds a
lease: whether a chunk is searched and which of its pairs are scored is read from the tables, so
whoever works on a chunk again does only what is not done.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from configs.schema import Config
from reranking.errors import RescoreError, RuntimeFailure
from reranking.runs.run import Run
from tasks.rerank import score_chunk, take_over
from tasks.retries import may_pass
from tasks.runners import chunks_of_a_round, on_own_devices, runner_of
from tasks.search import search_chunk

log = logging.getLogger(__name__)

Report = dict[str, Any]


def work_on_chunks(config: Config, plan: Run) -> Iterator[Report]:
    """Search and score all chunks of the run: per chunk `score_chunk`'s report, and `search` (s).

    Raises RuntimeFailure where chunks are lost again and again; those that are done stay done.
    """
    if config.execution.workers == 1:
        yield from _in_turn(config, plan)
    else:
        yield from _spread(config, plan)


def _in_turn(config: Config, plan: Run) -> Iterator[Report]:
    """Each chunk in this process; the next one is searched while one is scored."""
    searches = {chunk: search_chunk.submit(config, plan, chunk) for chunk in plan.chunks[:1]}
    for chunk in plan.chunks:
        seconds = searches.pop(chunk).result()
        if chunk + 1 < len(plan.chunks):
            searches[chunk + 1] = search_chunk.submit(config, plan, chunk + 1)
        yield score_chunk(config, plan, chunk) | {"search": seconds}


@task(
    name="work-on-chunk",
    task_run_name="work-on-chunk-{chunk}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[5, 30],
    retry_condition_fn=may_pass,
)
def work_on_chunk(config: Config, plan: Run, chunk: int) -> Report:
    """Search and score one chunk in this worker."""
    own = on_own_devices(config)
    seconds = search_chunk.fn(own, plan, chunk)
    return score_chunk.fn(own, plan, chunk) | {"search": seconds}


def _spread(config: Config, plan: Run) -> Iterator[Report]:
    """Each chunk in some worker; chunks of workers that died go to new ones while that helps."""
    refined = {}
    left = plan.chunks
    while left:
        lost: dict[int, Exception] = {}
        now = left[: chunks_of_a_round(config)]
        for chunk, report in _round(config, plan, now, lost):
            refined[chunk] = report["refined"]
            yield report
        if len(lost) == len(now):
            fault = lost[now[0]]
            raise RuntimeFailure(
                f"{len(lost)} of {len(plan.chunks)} chunks could not be done, the first for "
                f"{type(fault).__name__}: {fault}. Start the command again to go on with these"
            ) from fault
        left = [*lost, *left[len(now) :]]
    take_over(config, plan, refined)


def _round(
    config: Config, plan: Run, chunks: list[int], lost: dict[int, Exception]
) -> Iterator[tuple[int, Report]]:
    """Hand each of the chunks to a worker once; what fails without being an error is `lost`."""
    with runner_of(config) as runner:
        futures = {
            chunk: runner.submit(work_on_chunk, {"config": config, "plan": plan, "chunk": chunk})
            for chunk in chunks
        }
        for chunk, future in futures.items():
            try:
                report = future.result()
            except RescoreError:  # says what is wrong, and would be no better in another worker
                raise
            except Exception as error:
                log.warning("chunk %d was lost with its worker: %s", chunk, error)
                lost[chunk] = error
            else:
                yield chunk, report
