"""Whether a worker can do a job at all: asked once, before it gets its first chunk."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

from configs.documents import Encoder
from configs.schema import Config, Rerank
from reranking.errors import MissingPrerequisite, RescoreError
from reranking.models.files import ModelFiles
from reranking.models.resolve import ModelFolder
from reranking.workers.devices import on_own_devices
from reranking.workers.parcels import LARGEST, Parcel, note_use, parcels_of

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
    encoder: str | None = None  # fingerprint
    parcels: Mapping[str, Parcel] = field(default_factory=dict)  # by the models' names


@dataclass(frozen=True)
class Lacks:
    """What a worker must be sent before it can do the job."""

    where: str
    parcels: tuple[Parcel, ...]
    why: str


def what_is_asked(
    config: Config,
    *,
    table: str | None = None,
    auto: bool = False,
    reranker: str | None = None,
    encoder: str | None = None,
    folders: Iterable[ModelFolder] = (),
) -> Asked:
    """Return what workers must have to be of use to this driver.

    `folders` are its models: those that are local folders can be sent.
    """
    ours, parcels = version("rescore"), parcels_of(folders)
    return Asked(config, _python(), ours, table, auto, reranker, encoder, parcels)


def fault_of_worker(asked: Asked) -> str | Lacks | None:
    """Return why this worker cannot do the job, None if it can; it runs in the worker."""
    if asked.rescore != version("rescore"):
        return f"it has rescore {version('rescore')}, the driver {asked.rescore}"
    if asked.python != _python():
        return f"it has Python {_python()}, the driver {asked.python}"
    try:
        return _database(asked) or _models(asked)
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


def own_config(asked: Asked) -> Config:
    """Return the config as this worker uses it: with GPUs of its own, and models where it has them.

    Raises MissingPrerequisite if it has not the driver's.
    """
    config, missing = _placed(asked)
    if missing:
        raise MissingPrerequisite("; ".join(missing.values()))
    return config


def _models(asked: Asked) -> str | Lacks | None:
    config, missing = _placed(asked)
    for name in missing:
        size = asked.parcels[name].size
        if size > LARGEST:
            return (
                f"{missing[name]}, and it is not sent because it has {size / 1e9:.1f} GB, more "
                f"than {LARGEST / 1e9:.0f}: {_COPY}"
            )
    return _device(asked, config, missing) or _lacks(asked, missing) or _others(asked, config)


def _lacks(asked: Asked, missing: Mapping[str, str]) -> Lacks | None:
    if not missing:
        return None
    where = f"{socket.gethostname()} (process {os.getpid()})"
    why = "; ".join(missing.values())
    return Lacks(where, tuple(asked.parcels[name] for name in missing), f"{why}: {_COPY}")


def _placed(asked: Asked) -> tuple[Config, dict[str, str]]:
    """The config with the places of what this worker has; the models that it lacks, and why."""
    config, missing = on_own_devices(asked.config), dict[str, str]()
    rerank, encoder = config.rerank, config.documents.encoder
    if rerank is not None and asked.reranker is not None and rerank.api is None:
        parcel = asked.parcels.get(rerank.model_name)
        rerank = _settled(rerank, "model_name", _reranker, asked.reranker, parcel, missing)
    if encoder is not None and asked.encoder is not None:
        parcel = asked.parcels.get(encoder.model)
        encoder = _settled(encoder, "model", _encoder, asked.encoder, parcel, missing)
    documents = config.documents.model_copy(update={"encoder": encoder})
    return config.model_copy(update={"rerank": rerank, "documents": documents}), missing


Settings = TypeVar("Settings", Rerank, Encoder)


def _settled(
    settings: Settings,
    key: str,
    found: Callable[[Settings], str],
    wanted: str,
    parcel: Parcel | None,
    missing: dict[str, str],
) -> Settings:
    """The settings with the folder of the driver's model here; `missing` says why if none is.

    A model of the hub, or a built-in one, is left as it is named.
    """
    if parcel is None:
        return settings
    why = f"the model folder {parcel.name} is not here"
    for folder in (Path(parcel.name).expanduser(), parcel.model):
        if not folder.is_dir():
            continue
        here = settings.model_copy(update={key: str(folder)})
        try:
            fingerprint = found(here)
        except RescoreError as error:
            why = str(error)
            continue
        if fingerprint == wanted:
            if folder == parcel.model:
                note_use(parcel.place)
            return here
        why = _another(parcel.name, folder, fingerprint, wanted)
    missing[parcel.name] = why
    return settings


def _reranker(settings: Rerank) -> str:
    from reranking.scoring.crossencoder import find_cross_encoder

    return find_cross_encoder(settings).fingerprint.hex()


def _encoder(settings: Encoder) -> str:
    from reranking.scoring.encoder import SentenceEncoder

    return SentenceEncoder(settings).fingerprint


_COPY = "copy the driver's folder to the same path, or name the model and its revision on the hub"


def _another(name: str, folder: Path, found: str, wanted: str) -> str:
    return (
        f"the model {name!r} in {folder} is another one here (fingerprint {found[:8]}, the "
        f"driver's {wanted[:8]})"
    )


def _others(asked: Asked, config: Config) -> str | None:
    """Why models that each machine finds itself are of no use here: server, hub, built in."""
    from reranking.scoring.crossencoder import CrossEncoderModel, find_reranker, need_prerequisites
    from reranking.scoring.encoder import SentenceEncoder

    rerank, encoder = config.rerank, config.documents.encoder
    if rerank is not None and asked.reranker is not None:
        model = find_reranker(rerank)
        if not isinstance(model, CrossEncoderModel):
            need_prerequisites(rerank)  # the server's key, in this worker's environment
        elif (found := model.fingerprint.hex()) != asked.reranker:
            return f"{_another(model.name, model.folder.path, found, asked.reranker)}: {_COPY}"
    if encoder is not None and asked.encoder is not None:
        other = SentenceEncoder(encoder)
        if other.fingerprint != asked.encoder:
            place = other.folder.path
            return f"{_another(encoder.model, place, other.fingerprint, asked.encoder)}: {_COPY}"
    return None


def _device(asked: Asked, config: Config, missing: Mapping[str, str]) -> str | None:
    """Why no GPU of this worker can do the job; asked before a model is sent."""
    from reranking.scoring.crossencoder import find_cross_encoder
    from reranking.scoring.scorer import resolve_device

    settings = config.rerank
    if settings is None or settings.api is not None or asked.reranker is None:
        return None
    dtype: str
    if settings.model_name in missing:
        dtype, weights = settings.precision, asked.parcels[settings.model_name].weights
    else:
        model = find_cross_encoder(settings)
        dtype, weights = model.dtype, _size(model.folder.files)
    first = settings.device[0] if isinstance(settings.device, tuple) else settings.device
    device = resolve_device(first)
    if not device.startswith("cuda"):
        if asked.auto and dtype != "float32":
            return f"the job scores in {dtype} on GPUs and it has none"
        return None
    return _gpu(device, dtype, weights)


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
