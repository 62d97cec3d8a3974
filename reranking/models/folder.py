"""What a model folder says about itself, read from its JSON files without loading the model."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from reranking.errors import ConfigError, MissingPrerequisite
from reranking.models.chain import Module, transformer_settings, weight_files
from reranking.models.files import ModelFiles, read_model_files
from reranking.models.weights import read_headers

# Position ids of these start after the padding id: two rows of the table are not usable.
_OFFSET_TYPES = frozenset(
    {
        "roberta",
        "xlm-roberta",
        "xlm-roberta-xl",
        "camembert",
        "longformer",
        "mpnet",
        "data2vec-text",
    }
)
# These fail beyond their position table; models with relative or rotary positions do not.
_TABLE_TYPES = _OFFSET_TYPES | {"bert", "electra", "distilbert", "albert", "ernie"}
_UNLIMITED = int(1e20)  # transformers writes about 1e30 for "no limit"


def model_config(files: ModelFiles) -> dict[str, Any]:
    """The model's config.json."""
    config = files.object("config.json")
    if not config:
        raise MissingPrerequisite(
            f"{files.folder} has no config.json, so it is not a model folder; "
            "give the folder that a model was saved to (save_pretrained)"
        )
    return config


def resolve_max_length(folder: Path | ModelFiles, max_length: int | None) -> int:
    """Most tokens of a pair, special tokens included.

    `max_length` if given, otherwise what sentence_transformers.CrossEncoder takes for the folder;
    models of the RoBERTa family get two less than their position table where CrossEncoder would
    take it whole and fail on the first pair of that length.
    """
    files = read_model_files(folder)
    config = model_config(files)
    positions = _usable_positions(config)
    if max_length is not None:
        has_table = config.get("model_type") in _TABLE_TYPES
        return _checked_length(files.folder, max_length, positions if has_table else None)
    declared = _declared_length(files)
    shortest = min((n for n in (declared, positions) if n is not None), default=None)
    if shortest is None or shortest >= _UNLIMITED:
        raise ConfigError(f"{files.folder} states no token limit; set rerank.max_length (e.g. 512)")
    return shortest


def _checked_length(folder: Path, max_length: int, positions: int | None) -> int:
    if max_length < 8:
        raise ConfigError(f"max_length is {max_length}, expected at least 8 tokens")
    if positions is not None and max_length > positions:
        raise ConfigError(
            f"max_length is {max_length}, but {folder} has positions for {positions} tokens only; "
            "set max_length to that or less"
        )
    return max_length


def _usable_positions(config: dict[str, Any]) -> int | None:
    positions = config.get("max_position_embeddings")
    # -1 says "no limit" (XLNet); models with relative positions only have no table to run out of.
    if not isinstance(positions, int) or positions == -1:
        return None
    if config.get("model_type") in _OFFSET_TYPES:
        return positions - int(config.get("pad_token_id") or 1) - 1
    return positions


def _declared_length(files: ModelFiles) -> int | None:
    """The limit in the sentence-transformers module config (stronger) or the tokenizer config."""
    if "modules.json" in files:
        module = transformer_settings(files, Module("Transformer", ""))
        arguments = module.get("processor_kwargs") or module.get("tokenizer_args") or {}
        for declared in (arguments.get("model_max_length"), module.get("max_seq_length")):
            if declared is not None:
                return _count(files, declared)
    tokenizer = files.object("tokenizer_config.json")
    declared = tokenizer.get("model_max_length", tokenizer.get("max_len"))
    return None if declared is None else _count(files, declared)


def model_activation(folder: Path | ModelFiles, labels: int = 1) -> Literal["identity", "sigmoid"]:
    """The activation that sentence_transformers.CrossEncoder applies by default."""
    files = read_model_files(folder)
    name = _saved_activation(files)
    if name is None:
        return "sigmoid" if labels == 1 else "identity"
    if name.endswith(".Sigmoid"):
        return "sigmoid"
    if name.endswith(".Identity"):
        return "identity"
    raise ConfigError(
        f"{files.folder} asks for the activation {name}, known are Identity and Sigmoid; "
        "set rerank.activation to one of them"
    )


def _saved_activation(files: ModelFiles) -> str | None:
    saved = files.object("config_sentence_transformers.json").get("activation_fn")
    if saved and "modules.json" in files:
        return str(saved)
    config = model_config(files)
    current = config.get("sentence_transformers") or {}
    legacy = config.get("sbert_ce_default_activation_function")
    saved_name = current.get("activation_fn", legacy)
    return None if saved_name is None else str(saved_name)


def own_settings(files: ModelFiles, chain: Iterable[Module]) -> dict[str, object]:
    """What an encoder's files set about length and storage beyond what config and weights say.

    Empty for a model that reads as many tokens as it has positions, in the type it is stored in.
    """
    found: dict[str, object] = {}
    for module in chain:
        config = files.object(module.file("config.json"))
        if module.kind != "Transformer" or not config:
            continue
        length = _encoder_length(files, module, config)
        if length not in (config.get("max_position_embeddings"), _usable_positions(config)):
            found[f"{module.path}:max_length"] = length
        dtype = config.get("dtype") or config.get("torch_dtype")
        if dtype is not None and dtype not in _stored_types(files, module):
            found[f"{module.path}:dtype"] = str(dtype)
    return found


def _encoder_length(files: ModelFiles, module: Module, config: dict[str, Any]) -> int | None:
    settings = transformer_settings(files, module)
    arguments = settings.get("processor_kwargs") or settings.get("tokenizer_args") or {}
    declared = arguments.get("model_max_length", settings.get("max_seq_length"))
    if declared is not None:
        return _count(files, declared)
    tokenizer = files.object(module.file("tokenizer_config.json"))
    limits = (tokenizer.get("model_max_length"), config.get("max_position_embeddings"))
    return min((_count(files, n) for n in limits if n is not None and n != -1), default=None)


def _stored_types(files: ModelFiles, module: Module) -> set[str]:
    """The torch names of the types that a module's weights are stored in."""
    paths = [files.files[name].path for name in weight_files(files, module)]
    return {_TYPES.get(tensor.dtype, tensor.dtype) for tensor in read_headers(paths).values()}


_TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


# Read in both directions, with activations that fit float16's range; others may overflow in it.
_ENCODERS = _TABLE_TYPES | {"modernbert", "deberta", "deberta-v2", "nomic_bert", "new", "eurobert"}


def half_type(files: ModelFiles) -> Literal["float16", "bfloat16"]:
    """The half precision that suits the model, by its config and its weights' headers alone.

    bfloat16 for a model saved in it, and for a decoder, whose activations may leave float16's
    range; otherwise float16, whose numbers are eight times finer.
    """
    sizes: dict[str, int] = {}
    kinds = set()
    for name, file in files.files.items():
        if name.endswith(".safetensors"):
            for tensor in read_headers([file.path]).values():
                sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + math.prod(tensor.shape)
        elif name.rpartition("/")[2] == "config.json":
            kinds.add(files.object(name).get("model_type"))
    stored = max(sizes, key=lambda kind: sizes[kind], default="F32")
    if stored == "BF16" or (stored != "F16" and not kinds & _ENCODERS):
        return "bfloat16"
    return "float16"


def _count(files: ModelFiles, value: object) -> int:
    """A number of tokens in a JSON file; raises ConfigError for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 1:
        raise ConfigError(f"{files.folder} states {value!r} as its number of tokens")
    return int(min(value, _UNLIMITED))
