"""Model folders that only the driver has: sent in pieces to workers, which keep them in a cache.

What is sent are the digested files and nothing else. A worker has a model whole or not at all.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from reranking.errors import RescoreError
from reranking.files import whole_folder
from reranking.models.adapter import CONFIG, MergedFiles, base_of
from reranking.models.builtin import BUILTIN_PREFIX, cache_origin, default_cache
from reranking.models.files import ModelFile
from reranking.models.hashing import bytes_digest, file_digest, regular_file
from reranking.models.resolve import ModelFolder

LARGEST = 2_000_000_000  # bytes of a model that is sent
_PIECE = 4 << 20  # bytes handed over at once
_DAY = 24 * 3600.0
_KEPT = 30 * _DAY  # seconds that a model stays in a worker's cache after its last use


@dataclass(frozen=True)
class Part:
    """One file: where the driver has it, or what is in it."""

    source: Path | bytes
    size: int
    digest: str


@dataclass(frozen=True)
class Parcel:
    """The digested files of a model folder; of an adapter, those of its base's folder too."""

    name: str  # of the model, as the config has it
    parts: Mapping[str, Part]
    inside: str = "."  # where among the parts the model is

    @cached_property
    def digest(self) -> str:
        """32 hex digits of all names and contents."""
        parts = (f"{name} {part.digest}" for name, part in sorted(self.parts.items()))
        return bytes_digest("\n".join(parts).encode())

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(part.size for part in self.parts.values())

    @property
    def weights(self) -> int:
        """Bytes of the files with weights."""
        return sum(p.size for name, p in self.parts.items() if name.endswith(".safetensors"))

    @property
    def place(self) -> Path:
        """The folder for it in this machine's cache, whether it is there or not."""
        return default_cache() / "models" / f"sent-{self.digest}"

    @property
    def model(self) -> Path:
        """The model's own folder there."""
        return self.place / self.inside

    def pieces(self) -> Iterator[tuple[str, int, bytes]]:
        """The name of each file, with where a piece of it begins and its bytes."""
        for name, part in self.parts.items():
            if isinstance(part.source, bytes):
                yield name, 0, part.source
                continue
            with regular_file(part.source) as file:
                for start in range(0, max(part.size, 1), _PIECE):
                    yield name, start, file.read(_PIECE)


def parcels_of(folders: Iterable[ModelFolder]) -> dict[str, Parcel]:
    """Return what can be sent of these models, by their names: those that are local folders.

    Built-in models and those of the hub are found by each machine itself.
    """
    packed = {}
    for folder in folders:
        if folder.revision is None and not folder.name.startswith(BUILTIN_PREFIX):
            packed[folder.name] = _packed(folder)
    return packed


def _packed(folder: ModelFolder) -> Parcel:
    files = folder.files
    if not isinstance(files, MergedFiles):
        return Parcel(folder.name, _parts(files.files))
    base, _ = base_of(files.adapter)
    if not Path(base).expanduser().is_dir():  # of the hub, or built in
        return Parcel(folder.name, _parts(files.adapter.files))
    parts = _parts(files.adapter.files, "adapter/") | _parts(files.base.files, "base/")
    settings = files.adapter.object(CONFIG) | {"base_model_name_or_path": "../base"}
    data = json.dumps(settings).encode()
    parts[f"adapter/{CONFIG}"] = Part(data, len(data), bytes_digest(data))
    return Parcel(folder.name, parts, "adapter")


def _parts(files: Mapping[str, ModelFile], prefix: str = "") -> dict[str, Part]:
    return {
        prefix + name: Part(file.path, file.path.stat().st_size, file.digest)
        for name, file in files.items()
    }


# In the worker --------------------------------------------------------------------------------


def receive(parcel: Parcel, sending: str, name: str, start: int, piece: bytes) -> str | None:
    """Keep a piece of a file until the parcel is whole; why that cannot be, None if it can.

    `sending` names this sending: what another one brings does not mix with it.
    """
    beside = _beside(parcel, sending)
    try:
        target = beside / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("r+b" if start else "wb") as file:
            file.seek(start)
            file.write(piece)
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        return (
            f"model {parcel.name} cannot be kept in its cache folder {beside.parent} "
            f"({cache_origin()}): {error.strerror}. Set RESCORE_CACHE there to a folder with "
            f"{parcel.size / 1e9:.1f} GB of room, or copy the model to the same path"
        )
    return None


def unpack(parcel: Parcel, sending: str) -> str | None:
    """Put the parcel in its place if all of it is here as it was digested; why not, else None."""
    beside = _beside(parcel, sending)
    try:
        if _is_whole(parcel, parcel.place):  # another driver was faster
            return None
        if not _is_whole(parcel, beside):
            return f"the files of model {parcel.name} were changed while they were sent"
        with whole_folder(parcel.place) as folder:
            for name in parcel.parts:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (beside / name).replace(folder / name)
    except (OSError, RescoreError) as error:
        return f"model {parcel.name} cannot be kept in {parcel.place}: {error}"
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        _clear(parcel.place.parent)
    return None


def note_use(folder: Path) -> None:
    """Have a model in the cache stay for as long as one that was sent now."""
    with suppress(OSError):  # another user's
        os.utime(folder)


def _beside(parcel: Parcel, sending: str) -> Path:
    return parcel.place.with_name(f".sent-{sending}")


def _is_whole(parcel: Parcel, folder: Path) -> bool:
    try:
        return all(file_digest(folder / n) == part.digest for n, part in parcel.parts.items())
    except RescoreError:
        return False


def _clear(cache: Path) -> None:
    """Remove models that nobody has used for long, and what was left of sendings that died."""
    for pattern, kept in (("sent-*", _KEPT), (".sent-*", _DAY)):
        for folder in cache.glob(pattern):
            try:
                used = max(p.stat().st_mtime for p in (folder, *folder.rglob("*")))
            except OSError:  # somebody else removes it
                continue
            if time.time() - used > kept:
                shutil.rmtree(folder, ignore_errors=True)
