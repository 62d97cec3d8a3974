"""From the name of a model in a config to a local folder that can be loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reranking.errors import ConfigError, MissingPrerequisite
from reranking.models.adapter import base_of, is_adapter, with_adapter
from reranking.models.builtin import BUILTIN_PREFIX, builtin_folder
from reranking.models.chain import Module, read_chain
from reranking.models.files import (
    BYTES_MATTER,
    VALUES_MATTER,
    ModelFiles,
    read_model_files,
    understood,
)

_HUB_IGNORED = ("onnx/*", "openvino/*")


@dataclass(frozen=True)
class ModelFolder:
    """A model on this machine: its name as the user gave it, its files, its commit on the hub,
    and the modules that make it."""

    name: str
    files: ModelFiles
    revision: str | None
    chain: tuple[Module, ...]

    @property
    def path(self) -> Path:
        """The folder's place."""
        return self.files.folder


def resolve_model(
    name: str,
    *,
    revision: str | None = None,
    base_dir: Path | None = None,
    cache_dir: Path | None = None,
    trust_remote_code: bool = False,
) -> ModelFolder:
    """The folder of `builtin:NAME`, of a local folder (relative to `base_dir`) or of a hub id.

    `cache_dir` is where built models are kept; hub models stay in the hub's own cache.
    """
    if name.startswith(BUILTIN_PREFIX):
        if revision is not None:
            raise ConfigError(f"{name} has no revisions; remove revision {revision!r}")
        return _checked(name, builtin_folder(name, cache_dir), None)
    path = (base_dir or Path()) / Path(name).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ConfigError(f"{path} is a local folder and has no revisions; remove {revision!r}")
        return _checked(name, path.resolve(), None, trust_remote_code)
    if path.is_file():
        raise MissingPrerequisite(
            f"model {path} is a file; give the folder that it is in, with config and tokenizer"
        )
    if not _may_be_hub_id(name):
        raise MissingPrerequisite(
            f"model folder {path} does not exist; give an existing folder, builtin:NAME or a hub id"
        )
    folder = _download(name, revision, trust_remote_code)
    return _checked(name, folder, folder.name, trust_remote_code)


def _may_be_hub_id(name: str) -> bool:
    return not name.startswith((".", "/", "~")) and "\\" not in name and name.count("/") <= 1


def _download(name: str, revision: str | None, trust_remote_code: bool) -> Path:
    """The snapshot's folder, which the hub's cache names after the commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import HFValidationError

    # Weights in any other format than safetensors may run code when they are opened.
    code = ("*.py",)
    patterns = [p for p in BYTES_MATTER + VALUES_MATTER if trust_remote_code or p not in code]
    patterns = [q for p in patterns for q in (p, f"*/{p}")]
    try:
        download = snapshot_download(
            name, revision=revision, allow_patterns=patterns, ignore_patterns=list(_HUB_IGNORED)
        )
    except HFValidationError as error:
        raise ConfigError(f"{name!r} is neither a folder nor a hub id ({error})") from error
    except (OSError, ValueError) as error:  # the hub's errors derive from these
        wanted = f"{name} (revision {revision})" if revision else name
        if HF_HUB_OFFLINE:
            raise MissingPrerequisite(
                f"model {wanted} is not a local folder and not in the hub's cache, and "
                "HF_HUB_OFFLINE forbids to download it: unset that, or give a folder"
            ) from error
        raise MissingPrerequisite(
            f"model {wanted} is not a local folder, and the hub did not give it "
            f"({type(error).__name__}: {_first_line(error)}); check the name and the network, "
            "copy the model here and give its folder, or use builtin:minilm-reranker"
        ) from error
    return Path(download)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:200]


def _checked(
    name: str, folder: Path, revision: str | None, trust_remote_code: bool = False
) -> ModelFolder:
    """The model, if it has weights that may be read and needs no code that may not be run."""
    files = read_model_files(folder)
    if is_adapter(files):
        with understood(folder):
            base, base_revision = base_of(files)
        try:
            base_model = resolve_model(
                base, revision=base_revision, trust_remote_code=trust_remote_code
            )
        except MissingPrerequisite as error:
            where = folder / "adapter_config.json"
            raise MissingPrerequisite(
                f"{where} names {base!r} as base_model_name_or_path: {error}"
            ) from error
        with understood(folder):
            files = with_adapter(base_model.files, files)
    with understood(folder):
        return ModelFolder(name, files, revision, read_chain(files, trust_remote_code))
