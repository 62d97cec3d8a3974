"""The plain way of each engine: `CrossEncoder.predict` over batches, as its own examples do it.

Nothing of ours is imported: what stands here is what somebody writes who has no rescore.
"""

from __future__ import annotations

import time
from typing import Any

Pairs = list[tuple[str, str]]
_PART = 64  # pairs that are handed to a worker at once


class Predict:
    """What the engines' own examples do: a model for each actor, `predict` for each batch."""

    def __init__(self, folder: str) -> None:
        import torch
        from sentence_transformers import CrossEncoder

        torch.set_num_threads(1)
        self.model = CrossEncoder(folder, device="cpu")

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        texts = list(zip(batch["query"], batch["text"], strict=True))
        return {"score": self.model.predict(texts, show_progress_bar=False)}


def with_ray(address: str, pairs: Pairs, folder: str, workers: int) -> None:
    """`map_batches` with a pool of actors, from the connection to the last score."""
    import ray

    def work() -> int:
        ray.init(address, log_to_driver=False, logging_level="ERROR")
        ray.data.DataContext.get_current().enable_progress_bars = False
        try:
            rows = ray.data.from_items([{"query": q, "text": t} for q, t in pairs])
            scored = rows.repartition(max(1, len(pairs) // _PART)).map_batches(
                Predict,
                fn_constructor_args=(folder,),
                batch_size=_PART,
                concurrency=workers,
                num_cpus=0.5,  # Ray Data has tasks of its own, which need a place
            )
            return len(scored.take_all())
        finally:
            ray.shutdown()

    assert work() == len(pairs)


_models: dict[str, Predict] = {}


def predicted(folder: str, job: float, part: Pairs) -> list[float]:
    """Scores of a part, by a model that stays in the worker for the job."""
    key = f"{folder} {job}"
    if key not in _models:
        _models.clear()
        _models[key] = Predict(folder)
    queries, texts = zip(*part, strict=True)
    return list(_models[key]({"query": queries, "text": texts})["score"])


def with_dask(address: str, pairs: Pairs, folder: str, workers: int) -> None:
    """`client.map` over parts, from the connection to the last score."""
    from distributed import Client

    def work() -> int:
        with Client(address) as client:
            there = sorted(client.scheduler_info(n_workers=-1)["workers"])[:workers]
            parts = [pairs[i : i + _PART] for i in range(0, len(pairs), _PART)]
            futures = client.map(
                predicted,
                [folder] * len(parts),
                [time.time()] * len(parts),
                parts,
                workers=there,
                pure=False,
            )
            return sum(len(scores) for scores in client.gather(futures))

    assert work() == len(pairs)


PLAIN = {"dask": with_dask, "ray": with_ray}
