"""Load checks that a fast path has passed on this machine: the stock model is not loaded again.

A verdict vouches for the bytes of the model's files, on one processor or device, with the library
versions and the code that were checked. Anything else is checked anew. Beside its key it holds
what the fast path needs and the files do not say plainly, such as the tokenizer as it was used.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from reranking.models.chain import Module, weight_files
from reranking.models.files import ModelFiles
from reranking.progress import NOTICE
from reranking.scoring.machine import Record, processor

logger = logging.getLogger(__name__)

_LIBRARIES = ("torch", "transformers", "sentence-transformers", "tokenizers", "safetensors")


def verdict_of(kind: str, files: ModelFiles, device: str, **settings: object) -> Record:
    """The record of the check of a model, of `kind` reranker or encoder, under these settings."""
    key = {
        "kind": kind,
        "files": {name: file.digest for name, file in sorted(files.files.items())},
        "device": _device_name(device),
        "processor": processor(),
        "libraries": {name: version(name) for name in _LIBRARIES},
        "code": _code(),
        "settings": settings,
    }
    return Record("verdicts", key)


def say_checking(files: ModelFiles) -> None:
    """Tell the user why loading takes long this once."""
    logger.log(
        NOTICE,
        "checking the fast path of %s against sentence-transformers; "
        "what it shows is remembered on this machine",
        files.folder,
    )


def _device_name(device: str) -> str:
    if torch.device(device).type == "cuda":
        return f"{device} {torch.cuda.get_device_name(device)}"
    return device


@cache
def _code() -> str:
    """Digest of the modules that score: a changed line of them is checked again."""
    parts = sorted(Path(__file__).parent.rglob("*.py"))
    return blake2b(b"\0".join(p.read_bytes() for p in parts), digest_size=16).hexdigest()


@contextmanager
def saved_weights(files: ModelFiles, path: str = "") -> Iterator[Weights]:
    """The tensors of the Transformer at `path` in the model's folder, read within the context.

    Raises RuntimeFailure if a file is no longer what was digested.
    """
    from safetensors.torch import load_file

    names = [Path(name).name for name in weight_files(files, Module("Transformer", path))]
    with files.staged() as staged:
        place = staged / path
        # An adapter is staged merged, as one file.
        shards = [p for p in (place / name for name in names) if p.exists()]
        tensors: dict[str, torch.Tensor] = {}
        for shard in shards or sorted(place.glob("*.safetensors")):
            # Copies: a writer of the file would change what is mapped. In float32, as the stock
            # model computes what is rounded to half precision only then.
            tensors |= {
                name: tensor.to(torch.float32, copy=True)
                for name, tensor in load_file(shard).items()
            }
        yield Weights(tensors)


class Weights:
    """Saved tensors by the parts of their names: weights.encoder.layer[0].output.dense.bias.

    A part that is no tensor's name and begins none raises AttributeError.
    """

    config: SimpleNamespace

    def __init__(self, tensors: Mapping[str, torch.Tensor], prefix: str = "") -> None:
        self._tensors, self._prefix = tensors, prefix

    def __getattr__(self, part: str) -> Any:  # noqa: ANN401
        name = self._prefix + part
        value: Any = self._tensors.get(name)
        if value is None:
            below = f"{name}."
            if not any(key.startswith(below) for key in self._tensors):
                raise AttributeError(f"no tensor is called {name}")
            value = Weights(self._tensors, below)
        setattr(self, part, value)  # asked again, the same object
        return value

    def __iter__(self) -> Iterator[Any]:
        """The numbered parts, as of a list of layers."""
        number = 0
        while hasattr(self, str(number)):
            yield getattr(self, str(number))
            number += 1

    def __getitem__(self, number: int) -> Any:  # noqa: ANN401
        return getattr(self, str(number))


def saved_model(weights: Weights, config: Mapping[str, Any], device: str) -> Any:  # noqa: ANN401
    """What a fast forward reads of a CrossEncoder, made of saved weights and settings."""
    weights.config = SimpleNamespace(**config)
    return SimpleNamespace(transformers_model=weights, device=torch.device(device))
