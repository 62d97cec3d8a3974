"""The files of a model: found by their names, digested, and handed to the loader as they were.

What is digested is what is loaded. A loader sees a staged folder that holds these files and
nothing else, and a file that changed between its digest and the end of the loading stops the run.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from reranking.errors import ConfigError, MissingPrerequisite, RescoreError, RuntimeFailure
from reranking.models.hashing import bytes_digest, file_digest, fresh_digest, regular_file

# Every byte of these is digested; of the others below, the values.
BYTES_MATTER = (
    "*.safetensors",
    "tokenizer.json",
    "vocab.*",
    "merges.txt",
    "bpe.codes",
    "*.model",
    "*.jinja",
    "*.py",
)
VALUES_MATTER = (
    "config.json",
    "adapter_config.json",
    "modules.json",
    "router_config.json",
    "sentence_*_config.json",
    "config_sentence_transformers.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.safetensors.index.json",
)
# Of the files above, those that a loader is given. Other formats may run code when opened.
_STAGED_SUFFIXES = frozenset({".safetensors", ".json", ".txt", ".codes", ".model", ".jinja"})
_OTHER_FORMATS = ("onnx", "openvino")
_LARGEST_TEXT = 1 << 28  # bytes of one file that is not weights


@dataclass(frozen=True)
class ModelFile:
    """A regular file: where it really is, and the digest of its bytes."""

    path: Path
    digest: str


@dataclass(frozen=True)
class ModelFiles:
    """The files that decide a model's scores, by their path in its folder, as they were read."""

    folder: Path
    files: Mapping[str, ModelFile]
    values: Mapping[str, bytes] = field(repr=False)

    def __contains__(self, name: str) -> bool:
        return name in self.files

    def json(self, name: str) -> Any:  # noqa: ANN401
        """The value in a JSON file, or None if the model has no such file."""
        if name not in self.values:
            return None
        try:
            return json.loads(self.values[name])
        except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
            raise ConfigError(
                f"{self.folder / name} is not valid JSON ({error}); restore the model folder"
            ) from error

    def object(self, name: str) -> dict[str, Any]:
        """The JSON object in a file; empty if the model has no such file."""
        value = self.json(name)
        if value is None and name not in self.values:
            return {}
        if not isinstance(value, dict):
            raise ConfigError(
                f"{self.folder / name} holds a JSON {type(value).__name__}, expected an object"
            )
        return value

    @contextmanager
    def staged(self, *, with_code: bool = False) -> Iterator[Path]:
        """A folder with these files and nothing else, for the time of loading.

        Texts are copies of the digested bytes, weights are links. Raises RuntimeFailure if a file
        is no longer what was digested, before or after the loading.
        """
        with tempfile.TemporaryDirectory(prefix="rescore-model-") as scratch:
            root = Path(scratch) / f"model_{self.digest()}"
            root.mkdir()
            for name, file in self.files.items():
                if _is_staged(name, with_code):
                    self._stage(root / name, name, file)
            try:
                yield root
            except Exception:
                self._need_unchanged()  # says more than the loader's own error
                raise
            self._need_unchanged()

    def _stage(self, target: Path, name: str, file: ModelFile) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.suffix == ".safetensors":
            target.symlink_to(file.path)
            return
        data = _read_text(file.path)
        if bytes_digest(data) != file.digest:
            raise self._changed(name)
        target.write_bytes(data)

    def _need_unchanged(self) -> None:
        for name, file in self.files.items():
            if name.endswith(".safetensors") and fresh_digest(file.path) != file.digest:
                raise self._changed(name)

    def _changed(self, name: str) -> RuntimeFailure:
        return RuntimeFailure(
            f"{self.folder / name} was changed while the model was being loaded; "
            "run again when nothing writes to the folder"
        )

    def digest(self) -> str:
        """16 hex digits of all names and contents."""
        parts = "\n".join(f"{name} {file.digest}" for name, file in sorted(self.files.items()))
        return bytes_digest(parts.encode())[:16]


@contextmanager
def understood(folder: Path) -> Iterator[None]:
    """Make an error of a value that nobody expects in a model's JSON files one that names them."""
    try:
        yield
    except RescoreError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{folder} has a setting in its JSON files that cannot be understood "
            f"({type(error).__name__}: {str(error)[:200]}); restore the model folder"
        ) from error


def read_model_files(folder: Path | ModelFiles) -> ModelFiles:
    """Find and digest the files of the model in `folder` (those of a ModelFiles are known).

    Raises ConfigError for a file that is not a regular one or that stands outside of the folder,
    links resolved; MissingPrerequisite for one that cannot be read.
    """
    if isinstance(folder, ModelFiles):
        return folder
    root = folder.resolve()
    files, values = {}, {}
    for name in _names(root):
        path = _real_path(root, name)
        if _matches(name, BYTES_MATTER):
            files[name] = ModelFile(path, file_digest(path))
        else:
            values[name] = _read_text(path)
            files[name] = ModelFile(path, bytes_digest(values[name]))
    return ModelFiles(folder, files, values)


def _names(root: Path) -> Iterator[str]:
    """The relative paths of files that matter, in order; linked folders are not entered."""
    matching = []
    for place, folders, names in os.walk(root):
        relative = Path(place).relative_to(root)
        if not relative.parts:
            folders[:] = [n for n in folders if n not in _OTHER_FORMATS and n[:1] != "."]
            names = [n for n in names if n[:1] != "."]
        matching += [relative / n for n in names if _matches(n, BYTES_MATTER + VALUES_MATTER)]
    return (path.as_posix() for path in sorted(matching))


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name.rpartition("/")[2], pattern) for pattern in patterns)


def _is_staged(name: str, with_code: bool) -> bool:
    suffix = Path(name).suffix
    return suffix in _STAGED_SUFFIXES or (with_code and suffix == ".py")


def _real_path(root: Path, name: str) -> Path:
    """The file behind `name`: in the folder itself, or in the blobs of a hub cache's snapshot."""
    try:
        path = (root / name).resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise MissingPrerequisite(
            f"{root / name} leads nowhere; restore the model folder"
        ) from error
    homes = [root]
    if root.parent.name == "snapshots":
        homes.append(root.parent.parent / "blobs")
    if not any(path.is_relative_to(home) for home in homes):
        raise ConfigError(
            f"{root / name} is a link out of the model folder; copy the file into the folder"
        )
    return path


def _read_text(path: Path) -> bytes:
    with regular_file(path) as file:
        data = file.read(_LARGEST_TEXT + 1)
    if len(data) > _LARGEST_TEXT:
        raise ConfigError(f"{path} is larger than {_LARGEST_TEXT >> 20} MB; restore the model")
    return data
