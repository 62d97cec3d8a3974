"""What a model folder says about itself, read from its JSON files without loading the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from reranking.errors import ConfigError, MissingPrerequisite

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
_TRANSFORMER_CONFIGS = (
    "sentence_bert_config.json",
    "sentence_roberta_config.json",
    "sentence_distilbert_config.json",
    "sentence_camembert_config.json",
    "sentence_albert_config.json",
    "sentence_xlm-roberta_config.json",
    "sentence_xlnet_config.json",
)
_UNLIMITED = int(1e20)  # transformers writes about 1e30 for "no limit"


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; empty if there is no such file."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(
            f"{path} is not valid JSON ({error}); restore the model folder"
        ) from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds a JSON {type(value).__name__}, expected an object")
    return value


def model_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json."""
    config = read_json(folder / "config.json")
    if not config:
        raise MissingPrerequisite(
            f"{folder} has no config.json, so it is not a model folder; "
            "give the folder that a model was saved to (save_pretrained)"
        )
    return config


def check_one_label(folder: Path) -> str | None:
    """What keeps the folder from being a reranker with one label, or None if it is one.

    A model without a trained head must not pass: sentence-transformers would give it a random one.
    """
    config = model_config(folder)
    architectures = config.get("architectures") or []
    if not any(str(name).endswith("ForSequenceClassification") for name in architectures):
        named = ", ".join(map(str, architectures)) or "no architecture"
        return (
            f"{folder} is no reranker: config.json names {named}, expected "
            "...ForSequenceClassification with one label; give a cross-encoder's folder"
        )
    labels = _label_count(config)
    if labels != 1:
        return (
            f"{folder} classifies into {labels} labels, a reranker has one; "
            "give a cross-encoder trained for ranking (num_labels = 1)"
        )
    return None


def _label_count(config: dict[str, Any]) -> int:
    """transformers counts id2label, then num_labels, then assumes 2."""
    if config.get("id2label"):
        return len(config["id2label"])
    return int(config.get("num_labels") or 2)


def resolve_max_length(folder: Path, max_length: int | None) -> int:
    """Most tokens of a pair, special tokens included.

    `max_length` if given, otherwise what sentence_transformers.CrossEncoder takes for the folder;
    models of the RoBERTa family get two less than their position table where CrossEncoder would
    take it whole and fail on the first pair of that length.
    """
    config = model_config(folder)
    positions = _usable_positions(config)
    if max_length is not None:
        has_table = config.get("model_type") in _TABLE_TYPES
        return _checked_length(folder, max_length, positions if has_table else None)
    declared = _declared_length(folder)
    found = min((n for n in (declared, positions) if n is not None), default=None)
    if found is None or found >= _UNLIMITED:
        raise ConfigError(f"{folder} states no token limit; set max_length (e.g. 512)")
    return found


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


def _declared_length(folder: Path) -> int | None:
    """The limit in the sentence-transformers module config (stronger) or the tokenizer config."""
    if (folder / "modules.json").is_file():
        module = next((c for n in _TRANSFORMER_CONFIGS if (c := read_json(folder / n))), {})
        arguments = module.get("processor_kwargs") or module.get("tokenizer_args") or {}
        for found in (arguments.get("model_max_length"), module.get("max_seq_length")):
            if found is not None:
                return int(found)
    tokenizer = read_json(folder / "tokenizer_config.json")
    found = tokenizer.get("model_max_length", tokenizer.get("max_len"))
    return None if found is None else int(found)


def model_activation(folder: Path) -> Literal["identity", "sigmoid"]:
    """The activation that sentence_transformers.CrossEncoder applies by default for one label."""
    name = _saved_activation(folder)
    if name is None or name.endswith(".Sigmoid"):
        return "sigmoid"
    if name.endswith(".Identity"):
        return "identity"
    raise ConfigError(
        f"{folder} asks for the activation {name}, known are Identity and Sigmoid; "
        "set rerank.activation to one of them"
    )


def _saved_activation(folder: Path) -> str | None:
    saved = read_json(folder / "config_sentence_transformers.json").get("activation_fn")
    if saved and (folder / "modules.json").is_file():
        return str(saved)
    config = model_config(folder)
    current = config.get("sentence_transformers") or {}
    legacy = config.get("sbert_ce_default_activation_function")
    found = current.get("activation_fn", legacy)
    return None if found is None else str(found)
