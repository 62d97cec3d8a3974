"""Fingerprints of models: equal for equal scores, other than that of everything that moves them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from types import MappingProxyType

from reranking.models.adapter import CONFIG as ADAPTER_CONFIG
from reranking.models.files import ModelFiles, read_model_files

SCORE_VERSION = 1  # bumped by hand when our code changes scores by more than float32 noise

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
    folder: Path | ModelFiles,
    *,
    max_length: int,
    dtype: str,
    prompt: str | None = None,
    revision: str | None = None,
    settings: Mapping[str, object] | None = None,
) -> bytes:
    """16 bytes that name the scores of a reranker.

    `settings` say which of a model's outputs is the score (`reranker.ScoreSource`).
    Not part of it: device, batch sizes, activation, file paths and times.
    """
    more = {"settings": dict(settings)} if settings else {}
    return _fingerprint("reranker", folder, max_length, dtype, prompt, revision, more)


def fingerprint_encoder(
    folder: Path | ModelFiles,
    *,
    max_length: int,
    dtype: str,
    prompt: str | None = None,
    revision: str | None = None,
    settings: Mapping[str, object] | None = None,
) -> bytes:
    """16 bytes that name the vectors of an encoder.

    `settings` are those that its files add to what config and weights say (`folder.own_settings`).
    """
    more = {"settings": dict(settings)} if settings else {}
    return _fingerprint("encoder", folder, max_length, dtype, prompt, revision, more)


def _fingerprint(
    kind: str,
    folder: Path | ModelFiles,
    max_length: int,
    dtype: str,
    prompt: str | None,
    revision: str | None,
    more: Mapping[str, object] = MappingProxyType({}),
) -> bytes:
    parts = {
        "kind": kind,
        "score_version": SCORE_VERSION,
        "files": _file_digests(read_model_files(folder)),
        "max_length": max_length,
        "dtype": dtype,
        "prompt": prompt or "",
        "revision": revision,
        **more,
    }
    return blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).digest()


def _file_digests(files: ModelFiles) -> dict[str, str]:
    """Relative path -> digest of each file that decides scores, in sub-folders too (1_Pooling)."""
    return {
        name: _value_digest(_moving(name, files)) if name in files.values else file.digest
        for name, file in files.files.items()
    }


def _moving(name: str, files: ModelFiles) -> object:
    """A file's value without the place of an adapter's base, whose files are digested."""
    value = files.json(name)
    if name == f"adapter/{ADAPTER_CONFIG}" and isinstance(value, dict):
        return {k: v for k, v in value.items() if k not in ("base_model_name_or_path", "revision")}
    return value


def _value_digest(value: object) -> str:
    if isinstance(value, dict):
        value = {k: v for k, v in value.items() if k not in _IGNORED_KEYS}
    return blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()
