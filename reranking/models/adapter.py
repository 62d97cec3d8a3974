"""LoRA adapters: a folder with a small change to another model, merged into it at load."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reranking.errors import ConfigError, MissingPrerequisite
from reranking.models.chain import Module, weight_files
from reranking.models.files import ModelFile, ModelFiles
from reranking.models.hashing import bytes_digest
from reranking.models.weights import read_header

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Tensors = dict[str, NDArray[Any]]

_PREFIX = "base_model.model."
_TOKENIZER = re.compile(
    r"tokenizer\.json|vocab\..*|merges\.txt|bpe\.codes|.*\.model|.*\.jinja|tokenizer_config\.json"
    r"|special_tokens_map\.json|added_tokens\.json"
)
_OF_THE_BASE = re.compile(r"config\.json|.*\.safetensors|.*\.safetensors\.index\.json|.*\.py")
# Settings under which a LoRA is more than W + scale * B @ A, and the values that leave it so.
_PLAIN = {
    "use_dora": (None, False),
    "use_qalora": (None, False),
    "bias": (None, "none"),
    "lora_bias": (None, False),
    "megatron_config": (None,),
    "trainable_token_indices": (None,),
    "target_parameters": (None, []),
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
}


@dataclass(frozen=True)
class MergedFiles(ModelFiles):
    """The files of a base model with an adapter: the loader sees one ordinary model."""

    base: ModelFiles
    adapter: ModelFiles

    @contextmanager
    def staged(self, *, with_code: bool = False) -> Iterator[Path]:
        """A folder with the merged weights; raises RuntimeFailure as `ModelFiles.staged` does."""
        with (
            self.base.staged(with_code=with_code) as base,
            self.adapter.staged() as adapter,
            super().staged(with_code=with_code) as root,
        ):
            shards = [base / name for name in weight_files(self.base, Module("Transformer", ""))]
            merged = _merged(shards, adapter / WEIGHTS, self.adapter.object(CONFIG))
            _save(merged, root / "model.safetensors")
            yield root

    def _stage(self, target: Path, name: str, file: ModelFile) -> None:
        merged = "/" not in name and (".safetensors" in name)
        if name == "config.json":
            target.write_bytes(self.values[name])
        elif not merged and not name.startswith("adapter/"):
            super()._stage(target, name, file)

    def _need_unchanged(self) -> None:
        """Nothing: base and adapter look after their own files."""


def is_adapter(files: ModelFiles) -> bool:
    """Whether the folder holds an adapter; raises ConfigError if a whole model is beside it."""
    if CONFIG not in files:
        return False
    if "model.safetensors" in files or "model.safetensors.index.json" in files:
        raise ConfigError(
            f"{files.folder} holds a whole model and an adapter ({CONFIG}); keep one of them"
        )
    return True


def base_of(files: ModelFiles) -> tuple[str, str | None]:
    """Name and revision of the adapter's base model, a relative path taken from its folder.

    Raises ConfigError for an adapter that is no plain LoRA, MissingPrerequisite without weights.
    """
    where, config = files.folder / CONFIG, files.object(CONFIG)
    if WEIGHTS not in files:
        raise MissingPrerequisite(
            f"{files.folder} has no {WEIGHTS}; save the adapter as safetensors "
            "(save_pretrained of peft does)"
        )
    if config.get("peft_type") != "LORA":
        raise ConfigError(
            f"{where} is an adapter of type {config.get('peft_type')!r}, LORA is read; merge it "
            "with peft (merge_and_unload) and give the merged folder"
        )
    for key, plain in _PLAIN.items():
        if config.get(key) not in plain:
            raise ConfigError(
                f"{where} sets {key}: {config[key]!r}, which is not read; merge the adapter with "
                "peft (merge_and_unload) and give the merged folder"
            )
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not isinstance(name, str) or not name:
        raise ConfigError(f"{where} names no base model; set base_model_name_or_path")
    beside = files.folder / name
    return (str(beside) if beside.is_dir() else name), revision or None


def with_adapter(base: ModelFiles, adapter: ModelFiles) -> MergedFiles:
    """One model of both: weights and config of the base, everything else of the adapter if there.

    All files of both are digested, those of the adapter under `adapter/`.
    """
    if isinstance(base, MergedFiles):
        raise ConfigError(
            f"{adapter.folder} is an adapter of an adapter ({base.folder}); merge the first one "
            "with peft (merge_and_unload)"
        )
    own_tokenizer = "tokenizer_config.json" in adapter
    files: dict[str, ModelFile] = {}
    values: dict[str, bytes] = {}
    for name, file in base.files.items():
        kept = _OF_THE_BASE.fullmatch(name) or (not own_tokenizer and _TOKENIZER.fullmatch(name))
        if kept and "/" not in name:
            files[name] = file
    for name, file in adapter.files.items():
        if name != "config.json":
            files[f"adapter/{name}" if name in (CONFIG, WEIGHTS) else name] = file
    for name in files:
        source = adapter if name.startswith("adapter/") or name in adapter.values else base
        key = name.removeprefix("adapter/")
        if name != "config.json" and key in source.values:
            values[name] = source.values[key]
    values["config.json"] = _merged_config(base, adapter)
    files["config.json"] = ModelFile(adapter.folder, bytes_digest(values["config.json"]))
    return MergedFiles(adapter.folder, files, values, base, adapter)


def _merged_config(base: ModelFiles, adapter: ModelFiles) -> bytes:
    """The base's config, as a classifier if the adapter brings the head of one."""
    config = base.object("config.json")
    architectures = [str(a) for a in config.get("architectures") or []]
    classifies = adapter.object(CONFIG).get("task_type") == "SEQ_CLS"
    if classifies and not any(a.endswith("ForSequenceClassification") for a in architectures):
        from transformers.models.auto.modeling_auto import (
            MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as NAMES,
        )

        kind = config.get("model_type")
        if kind not in NAMES:
            raise ConfigError(f"{base.folder}: no classifier is known for models of type {kind!r}")
        labels = _head_rows(adapter)
        config = config | {
            "architectures": [NAMES[kind]],
            "id2label": {str(i): f"LABEL_{i}" for i in range(labels)},
            "label2id": {f"LABEL_{i}": i for i in range(labels)},
        }
    return json.dumps(config).encode()


def _head_rows(adapter: ModelFiles) -> int:
    """Labels of the head that the adapter brings."""
    header = read_header(adapter.files[WEIGHTS].path)
    heads = {target_name(key): t.shape for key, t in header.items() if ".lora_" not in key}
    last = [heads[n][0] for n in _HEAD_NAMES if n in heads and heads[n]]
    if not last:
        raise ConfigError(
            f"{adapter.folder} classifies, but brings no head ({', '.join(_HEAD_NAMES)}); save the "
            "adapter with modules_to_save"
        )
    return last[0]


_HEAD_NAMES = ("score.weight", "classifier.weight", "classifier.out_proj.weight")


def target_name(key: str) -> str:
    """The name, in the whole model, of a tensor that an adapter brings or changes."""
    name = key.removeprefix(_PREFIX)
    for part in (".modules_to_save", ".default", ".base_layer", ".lora_A", ".lora_B"):
        name = name.replace(part, "")
    return name


def merge_adapter(
    base: Mapping[str, NDArray[Any]], adapter: Tensors, config: Mapping[str, Any]
) -> Tensors:
    """Weights of the whole model: W + scale * B @ A, and the adapter's own tensors.

    The product is taken in float64 and rounded to float32 once, so that every machine gets the
    same bits and with them the same fingerprint. Layout of the adapter: PEFT's LoRA. Raises
    ConfigError for a change to a tensor that the base has not.
    """
    prefix = _added_prefix(base, adapter)
    merged = {prefix + k: v for k, v in base.items() if not k.endswith("position_ids")}
    for key, tensor in adapter.items():
        name = target_name(key)
        if ".lora_embedding_" in key or ".lora_magnitude_vector" in key:
            raise ConfigError(f"the adapter changes {name} in a way that is not read; merge it")
        if ".lora_A." in key:
            if name not in merged:
                raise ConfigError(
                    f"the adapter changes {name}, which its base model has not: it is another's"
                )
            up = adapter[key.replace(".lora_A.", ".lora_B.")].astype(np.float64)
            change = _scale(name, len(tensor), config) * (up @ tensor.astype(np.float64))
            change = change.T if config.get("fan_in_fan_out") else change
            merged[name] = (merged[name] + change).astype(np.float32)
        elif ".lora_B." not in key and ".original_module." not in key:
            merged[name] = tensor.astype(np.float32)
    return merged


def _scale(name: str, rank: int, config: Mapping[str, Any]) -> float:
    module = name.removesuffix(".weight")
    alpha = float(config["lora_alpha"])
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            alpha = float(value)
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _added_prefix(base: Mapping[str, Any], adapter: Tensors) -> str:
    """What the whole model puts before the base's names: `bert.` if the base is a bare trunk."""
    for key in adapter:
        name = target_name(key)
        if ".lora_A." in key and name not in base:
            inner = [k for k in base if name.endswith("." + k)]
            if inner:
                return name.removesuffix(max(inner, key=len))
    return ""


def _merged(shards: list[Path], adapter: Path, config: Mapping[str, Any]) -> Tensors:
    from safetensors.torch import load_file

    def arrays(path: Path) -> Tensors:
        return {name: tensor.float().numpy() for name, tensor in load_file(path).items()}

    base = {name: array for path in shards for name, array in arrays(path).items()}
    return merge_adapter(base, arrays(adapter), config)


def _save(weights: Tensors, target: Path) -> None:
    from safetensors.numpy import save_file

    contiguous = {name: np.ascontiguousarray(array) for name, array in weights.items()}
    save_file(contiguous, target, metadata={"format": "pt"})
