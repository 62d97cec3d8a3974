"""Whether a worker can do a job at all: asked once, before it gets its first chunk."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version

from configs.schema import Config
from reranking.errors import RescoreError
from reranking.models.files import ModelFiles
from reranking.workers.devices import on_own_devices

_SPARE = 1.3  # memory that a model takes on a GPU, in sizes of its weights


@dataclass(frozen=True)
class Asked:
    """What every worker of a job must have."""

    config: Config  # as it is shipped: with the precision that the driver found
    python: str
    rescore: str
    table: str | None = None  # one that the job reads and every worker must see
    auto: bool = False  # the precision was chosen by us and not by the config
    reranker: str | None = None  # fingerprint


def what_is_asked(
    config: Config, *, table: str | None = None, auto: bool = False, reranker: str | None = None
) -> Asked:
    """Return what workers must have to be of use to this driver."""
    return Asked(config, _python(), version("rescore"), table, auto, reranker)


def fault_of_worker(asked: Asked) -> str | None:
    """Return why this worker cannot do the job, None if it can; it runs in the worker."""
    if asked.rescore != version("rescore"):
        return f"it has rescore {version('rescore')}, the driver {asked.rescore}"
    if asked.python != _python():
        return f"it has Python {_python()}, the driver {asked.python}"
    try:
        return _database(asked) or _model(asked)
    except RescoreError as error:
        return str(error)
    except Exception as error:  # a store's, a driver's: whatever it is, the worker is of no use
        return f"{type(error).__name__}: {error}"


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])


def _database(asked: Asked) -> str | None:
    from reranking.store import Database

    uri = asked.config.database
    if "://" not in uri and not os.path.isdir(uri):
        return (
            f"it does not see the database {uri}: use a shared file system under the same path, or "
            "an object store"
        )
    if asked.table is not None and asked.table not in Database(uri).names():
        return f"it sees another database at {uri}: table {asked.table!r} is not there"
    return None


def _model(asked: Asked) -> str | None:
    from reranking.scoring.crossencoder import CrossEncoderModel, find_reranker, need_prerequisites
    from reranking.scoring.scorer import resolve_device

    settings = on_own_devices(asked.config).rerank
    if settings is None or asked.reranker is None:
        return None
    model = find_reranker(settings)
    if not isinstance(model, CrossEncoderModel):
        need_prerequisites(settings)  # the server's key, in this worker's environment
        return None
    if model.fingerprint.hex() != asked.reranker:
        return (
            f"the model {model.name!r} in {model.folder.path} is another one here (fingerprint "
            f"{model.fingerprint.hex()[:8]}, the driver's {asked.reranker[:8]}): copy the driver's "
            "folder to the same path, or name the model and its revision on the hub"
        )
    first = settings.device[0] if isinstance(settings.device, tuple) else settings.device
    device = resolve_device(first)
    if not device.startswith("cuda"):
        if asked.auto and model.dtype != "float32":
            return f"the job scores in {model.dtype} on GPUs and it has none"
        return None
    return _gpu(device, model.dtype, _size(model.folder.files))


def _size(files: ModelFiles) -> int:
    """Bytes of the model's weights on disk."""
    weights = [f.path for name, f in files.files.items() if name.endswith(".safetensors")]
    return sum(path.stat().st_size for path in weights)


def _gpu(device: str, dtype: str, weights: int) -> str | None:
    import torch

    if dtype == "bfloat16" and not torch.cuda.is_bf16_supported():
        return f"its GPU ({torch.cuda.get_device_name(device)}) has no bfloat16"
    free = torch.cuda.mem_get_info(device)[0]
    if free < weights * _SPARE:
        return (
            f"{device} has {free / 1e9:.1f} GB free, the model's weights take "
            f"{weights / 1e9:.1f} GB"
        )
    return None
