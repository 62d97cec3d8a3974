"""From the name of a model in a config to a local folder that can be loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from reranking.errors import ConfigError, MissingPrerequisite
from reranking.models.builtin import BUILTIN_PREFIX, builtin_folder
from reranking.models.folder import read_json

# Weights in any other format than safetensors may run code when they are opened.
_HUB_FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "*/config.json",
    "modules.json",
    "sentence_*_config.json",
    "config_sentence_transformers.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.jinja",
)
_HUB_IGNORED = ("onnx/*", "openvino/*")


@dataclass(frozen=True)
class ModelFolder:
    """A model on this machine: its name as the user gave it, its folder, its commit on the hub."""

    name: str
    path: Path
    revision: str | None


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
        return ModelFolder(name, builtin_folder(name, cache_dir), None)
    path = (base_dir or Path()) / Path(name).expanduser()
    if path.is_dir():
        if revision is not None:
            raise ConfigError(f"{path} is a local folder and has no revisions; remove {revision!r}")
        return ModelFolder(name, _checked(path.resolve(), trust_remote_code), None)
    if not _may_be_hub_id(name):
        raise MissingPrerequisite(
            f"model folder {path} does not exist; give an existing folder, builtin:NAME or a hub id"
        )
    folder = _download(name, revision, trust_remote_code)
    return ModelFolder(name, _checked(folder, trust_remote_code), folder.name)


def _may_be_hub_id(name: str) -> bool:
    return not name.startswith((".", "/", "~")) and "\\" not in name and name.count("/") <= 1


def _download(name: str, revision: str | None, trust_remote_code: bool) -> Path:
    """The snapshot's folder, which the hub's cache names after the commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    patterns = [*_HUB_FILES, "*.py"] if trust_remote_code else list(_HUB_FILES)
    try:
        found = snapshot_download(
            name, revision=revision, allow_patterns=patterns, ignore_patterns=list(_HUB_IGNORED)
        )
    except HFValidationError as error:
        raise ConfigError(f"{name!r} is neither a folder nor a hub id ({error})") from error
    except (OSError, ValueError) as error:  # the hub's errors derive from these
        wanted = f"{name} (revision {revision})" if revision else name
        raise MissingPrerequisite(
            f"model {wanted} is not a local folder, and the hub did not give it "
            f"({type(error).__name__}: {_first_line(error)}); check the name and the network, "
            "copy the model here and give its folder, or use builtin:minilm-reranker"
        ) from error
    return Path(found)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:200]


def _checked(folder: Path, trust_remote_code: bool) -> Path:
    """The folder, if it has weights that may be read and needs no code that may not be run."""
    code = None if trust_remote_code else _code_needed(folder)
    if code is not None:
        raise ConfigError(
            f"{folder} brings code of its own ({code}), and that is not run. If you have read it "
            "and trust it, set trust_remote_code: true; the run then records it"
        )
    return _with_weights(folder)


def _code_needed(folder: Path) -> str | None:
    """What of the folder's own code loading it would run, or None."""
    modules = folder / "modules.json"
    if modules.is_file():
        for module in _json_list(modules):
            kind = str(module.get("type")) if isinstance(module, dict) else ""
            if kind and not kind.startswith("sentence_transformers."):
                return kind
    config = read_json(folder / "config.json")
    if not config.get("auto_map"):
        return None
    # transformers prefers its own code where it knows the type
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    known = config.get("model_type") in CONFIG_MAPPING_NAMES
    return None if known else f"config.json: auto_map of {config.get('model_type')!r}"


def _json_list(path: Path) -> list[object]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON ({error})") from error
    return value if isinstance(value, list) else []


def _with_weights(folder: Path) -> Path:
    if any(folder.glob("*.safetensors")):
        return folder
    names = sorted(p.name + ("/" if p.is_dir() else "") for p in folder.iterdir())
    raise MissingPrerequisite(
        f"{folder} has no *.safetensors file; it holds {', '.join(names[:12]) or 'nothing'}. "
        "Other weight formats may run code when opened and are not read: "
        "convert the model with save_pretrained(..., safe_serialization=True)"
    )
