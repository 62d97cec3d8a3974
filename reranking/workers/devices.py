"""Which GPUs a worker uses, where its engine does not say so itself."""

from __future__ import annotations

import threading

from configs.schema import Config

_UNNAMED = (None, "cuda")  # of the GPUs that are there any

place = threading.local()
"""`number`: which worker of its machine this thread (or its process) is."""


def gpus_wanted(config: Config) -> int:
    """The GPUs to reserve for a worker; none for work on CPU, none if this machine has none."""
    device = None if config.rerank is None else config.rerank.device
    if device == "cpu":
        return 0
    if config.execution.address is None and not cuda_devices():
        return 0
    return config.execution.gpus_per_worker


def cuda_devices() -> int:
    """The GPUs that this process sees."""
    from reranking.scoring.scorer import surely_no_gpu

    if surely_no_gpu():
        return 0
    import torch

    return torch.cuda.device_count()


def on_own_devices(config: Config, number: int | None = None, present: int | None = None) -> Config:
    """Return the config as the worker `number` uses it: with GPUs of its own.

    None: this worker and the GPUs here. A config that names its GPUs stays as it is, and so
    does every config in a worker that has no number, because its engine hands out GPUs itself.
    """
    number = getattr(place, "number", None) if number is None else number
    gpus = config.execution.gpus_per_worker
    if number is None or not gpus or config.rerank is None:
        return config
    if config.rerank.device not in _UNNAMED:
        return config
    present = cuda_devices() if present is None else present
    if not present:
        return config
    own = [f"cuda:{(number * gpus + i) % present}" for i in range(min(gpus, present))]
    rerank = config.rerank.model_copy(update={"device": own[0] if len(own) == 1 else own})
    encoder = config.documents.encoder
    if encoder is not None and encoder.device in _UNNAMED:
        encoder = encoder.model_copy(update={"device": own[0]})
    documents = config.documents.model_copy(update={"encoder": encoder})
    return config.model_copy(update={"rerank": rerank, "documents": documents})
