"""Fingerprints of models: equal for equal scores, other than that of everything that moves them."""

from __future__ import annotations

import json
from hashlib import blake2b
from pathlib import Path

from reranking.models.hashing import file_digest

SCORE_VERSION = 1  # bumped by hand when our code changes scores by more than float32 noise

_BYTES_MATTER = (
    "*.safetensors",
    "tokenizer.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.jinja",
    "*.py",
)
_VALUES_MATTER = (
    "config.json",
    "modules.json",
    "sentence_*_config.json",
    "config_sentence_transformers.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.safetensors.index.json",
)
# Keys that name versions, places and storage types, or that are digested on their own.
_IGNORED_KEYS = frozenset(
    {
        "_name_or_path",
        "name_or_path",
        "__version__",
        "transformers_version",
        "dtype",
        "torch_dtype",
        "activation_fn",
        "sbert_ce_default_activation_function",
        "sentence_transformers",
        "model_max_length",
        "max_len",
        "max_seq_length",
        "is_local",
        "local_files_only",
        "tokenizer_file",
        "use_cache",
        "gradient_checkpointing",
    }
)


def fingerprint_reranker(
    folder: Path,
    *,
    max_length: int,
    dtype: str,
    prompt: str | None = None,
    revision: str | None = None,
) -> bytes:
    """16 bytes that name the scores of a reranker.

    Not part of it: device, batch sizes, activation, file paths and times.
    """
    return _fingerprint("reranker", folder, max_length, dtype, prompt, revision)


def fingerprint_encoder(
    folder: Path,
    *,
    max_length: int,
    dtype: str,
    prompt: str | None = None,
    revision: str | None = None,
) -> bytes:
    """16 bytes that name the vectors of an encoder."""
    return _fingerprint("encoder", folder, max_length, dtype, prompt, revision)


def _fingerprint(
    kind: str,
    folder: Path,
    max_length: int,
    dtype: str,
    prompt: str | None,
    revision: str | None,
) -> bytes:
    parts = {
        "kind": kind,
        "score_version": SCORE_VERSION,
        "files": _file_digests(folder),
        "max_length": max_length,
        "dtype": dtype,
        "prompt": prompt or "",
        "revision": revision,
    }
    return blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).digest()


def _file_digests(folder: Path) -> dict[str, str]:
    """Relative path -> digest of each file that decides scores, in sub-folders too (1_Pooling)."""
    found = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if relative.parts[0] in ("onnx", "openvino") or relative.parts[0].startswith("."):
            continue
        if any(path.match(pattern) for pattern in _BYTES_MATTER):
            found[relative.as_posix()] = file_digest(path)
        elif any(path.match(pattern) for pattern in _VALUES_MATTER):
            found[relative.as_posix()] = _value_digest(path)
    return found


def _value_digest(path: Path) -> str:
    value = json.loads(path.read_bytes())
    if isinstance(value, dict):
        value = {k: v for k, v in value.items() if k not in _IGNORED_KEYS}
    return blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()
