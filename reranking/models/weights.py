"""What the header of a safetensors file says, and whether a config can belong to it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reranking.errors import ConfigError, MissingPrerequisite
from reranking.models.hashing import regular_file

_LARGEST_HEADER = 100_000_000  # bytes, safetensors' own limit
_LFS = b"version https://git-lfs"  # how a pointer begins
_LAYERS = frozenset(
    {
        "num_hidden_layers",
        "n_layer",
        "n_layers",
        "num_layers",
        "encoder_layers",
        "decoder_layers",
        "num_encoder_layers",
        "num_decoder_layers",
    }
)
_SIZES = re.compile(
    r"(^|_)(layers?|blocks|experts|size|dim|labels|d_model|d_ff|n_embd|n_inner|heads)$"
)
_MOST_POSITIONS = 1 << 27  # of models without a table of positions
_INDEX = re.compile(r"(?:^|\.)(\d+)(?=\.|$)")


@dataclass(frozen=True)
class Tensor:
    """A tensor's storage type (F32, BF16, ...) and shape."""

    dtype: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, Tensor]:
    """Name -> tensor of a safetensors file, read without its data.

    Raises MissingPrerequisite if it is no safetensors file, or shorter than its header says.
    """
    with regular_file(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        file.seek(0)
        if file.read(len(_LFS)) == _LFS:
            raise MissingPrerequisite(
                f"{path} is a pointer of Git LFS and not the weights; run git lfs pull in that "
                "folder, or download the model with hf download"
            )
        file.seek(8)
        if size < 8 or not 2 <= length <= min(size - 8, _LARGEST_HEADER):
            raise MissingPrerequisite(
                f"{path} could not be loaded: it is no safetensors file; restore the model folder"
            )
        data = file.read(length)
    try:
        header = json.loads(data)
        tensors = {
            name: Tensor(str(t["dtype"]), tuple(int(n) for n in t["shape"]))
            for name, t in header.items()
            if name != "__metadata__"
        }
        ends = [int(t["data_offsets"][1]) for n, t in header.items() if n != "__metadata__"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise MissingPrerequisite(
            f"{path} could not be loaded: its header is broken; restore the model folder"
        ) from error
    needed = 8 + length + max(ends, default=0)
    if needed > size:
        raise MissingPrerequisite(
            f"{path} could not be loaded: it has {size} bytes, its header says {needed}; "
            "restore the model folder"
        )
    return tensors


def read_headers(paths: Sequence[Path]) -> dict[str, Tensor]:
    """Name -> tensor of all shards."""
    return {name: tensor for path in paths for name, tensor in read_header(path).items()}


def check_sizes(where: Path, config: Mapping[str, Any], paths: Sequence[Path]) -> None:
    """Raise ConfigError if the config asks for more layers or wider ones than the weights have.

    The loader would build them first, for minutes or until memory runs out. Of a negative number
    of layers it would build none, and score by the embeddings alone.
    """
    tensors = read_headers(paths)
    layers = 1 + max((int(n) for name in tensors for n in _INDEX.findall(name)), default=0)
    widest = max((n for tensor in tensors.values() for n in tensor.shape), default=0)
    shared = config.get("model_type") == "albert"  # all layers are one
    tables = [t.shape[0] for n, t in tensors.items() if n.endswith("position_embeddings.weight")]
    for key, value in _sizes(config):
        if key == "max_position_embeddings":
            most = max(tables, default=_MOST_POSITIONS)
        else:
            most = layers if key in _LAYERS and not shared else max(widest, layers)
        if value > most or (value < 0 and key in _LAYERS):
            raise ConfigError(
                f"{where} says {key}: {value}, the weights have {most} at most; "
                "the two do not belong together, restore the model folder"
            )


def _sizes(config: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _sizes(value)
        elif type(value) is int and (key == "max_position_embeddings" or _SIZES.search(key)):
            yield key, value
