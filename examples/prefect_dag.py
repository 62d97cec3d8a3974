"""A flow of your own in Prefect: our steps as tasks, yours between them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from examples.changed_model import write_inputs
from reranking import Pipeline
from reranking.order import judge, score
from reranking.summary import Summary
from tasks.steps import AsTasks


@task(cache_policy=NO_CACHE, persist_result=False)
def tell(rejected: int) -> str:
    """Your own task: here, what should be known before anything is scored."""
    return f"{rejected} rows were rejected"


@flow(name="my-night", persist_result=False)
def my_night(config: dict[str, Any]) -> dict[str, Any]:
    """Ingest, tell, score, judge; no table for consumers is touched."""
    pipeline = Pipeline(config, AsTasks())
    call, summary = pipeline.executor.call, Summary(pipeline.config)
    call(pipeline.ingest)
    told = tell(call(pipeline.load_queries))
    call(pipeline.load_judgments)
    run = score(pipeline, lambda: call(pipeline.plan), summary)
    judge(pipeline, run, summary)
    return {"told": told, **summary.as_dict()}


def main(folder: Path, model: str = "builtin:minilm-reranker") -> dict[str, Any]:
    """Run the flow once, here and now."""
    return my_night(write_inputs(folder) | {"rerank": {"model_name": model}})


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        print(main(Path(temporary)))  # noqa: T201 - an example shows what it did
